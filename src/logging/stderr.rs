//! Writes whole lines to stderr, each with one write.
//!
//! A failed write is returned as an error, so that the log can count the line as dropped. A write that blocks makes
//! only the thread of the log wait.

use crate::limits;
use std::io;

/// Collects a line, and writes it when it is flushed.
pub(super) struct LineWriter<W> {
    out: W,
    line: Vec<u8>,
    /// The last line was written only in part, so the next line must start with a line break.
    torn: bool,
}

impl<W: io::Write> LineWriter<W> {
    pub(super) fn new(out: W) -> LineWriter<W> {
        LineWriter {
            out,
            line: Vec::new(),
            torn: false,
        }
    }

    /// Writes `line`, usually with one write. `done` counts the bytes that were written, also after an error.
    fn put(out: &mut W, line: &[u8], done: &mut usize) -> io::Result<()> {
        while *done < line.len() {
            match out.write(&line[*done..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => *done += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another process has made stderr non-blocking. Giving up here could tear the line.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(limits::LOG_WRITE_RETRY);
                }
                Err(error) => return Err(error),
            }
        }
        out.flush()
    }
}

impl<W: io::Write> io::Write for LineWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.line.is_empty() && self.torn {
            self.line.push(b'\n');
        }
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut done = 0;
        let written = LineWriter::put(&mut self.out, &self.line, &mut done);
        match written {
            Ok(()) => self.torn = false,
            Err(_) => self.torn |= done > 0,
        }
        self.line.clear();
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::io::Write as _;

    /// Returns the results of the script, one per write, and then accepts every write.
    #[derive(Default)]
    struct Scripted {
        script: VecDeque<io::Result<usize>>,
        writes: Vec<String>,
    }

    impl io::Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = self.script.pop_front().unwrap_or(Ok(bytes.len()))?;
            let text = std::str::from_utf8(&bytes[..taken]).unwrap();
            self.writes.push(text.to_owned());
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn writer(script: impl IntoIterator<Item = io::Result<usize>>) -> LineWriter<Scripted> {
        LineWriter::new(Scripted {
            script: script.into_iter().collect(),
            writes: Vec::new(),
        })
    }

    #[test]
    fn a_line_of_many_parts_is_one_write() {
        let mut lines = writer([]);
        for word in ["one", " ", "two\n"] {
            lines.write_all(word.as_bytes()).unwrap();
        }
        lines.flush().unwrap();
        lines.write_all(b"three\n").unwrap();
        lines.flush().unwrap();
        assert_eq!(lines.out.writes, ["one two\n", "three\n"]);
    }

    #[test]
    fn a_write_that_would_block_goes_on_where_it_was() {
        let blocked = || Err(io::ErrorKind::WouldBlock.into());
        let mut lines = writer([Ok(2), blocked(), Err(io::ErrorKind::Interrupted.into())]);
        lines.write_all(b"whole\n").unwrap();
        lines.flush().unwrap();
        assert_eq!(lines.out.writes.concat(), "whole\n");
    }

    #[test]
    fn behind_a_torn_line_the_next_one_begins_on_its_own() {
        let full = || Err(io::ErrorKind::StorageFull.into());
        let mut lines = writer([full(), Ok(2), full(), full()]);
        for line in ["not written\n", "torn\n", "not written\n", "whole\n"] {
            lines.write_all(line.as_bytes()).unwrap();
            assert_eq!(lines.flush().is_ok(), line == "whole\n");
        }
        assert_eq!(lines.out.writes, ["to", "\nwhole\n"]);
    }
}
