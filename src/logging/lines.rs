//! The forms of a line: text for people, JSON for programs, and the lines of subcommands.
//!
//! Invariants:
//! - A record is one line, whatever its message and its values contain. Characters that could end the line, move the
//!   cursor or change the direction of text are escaped.
//! - In the text form, a value that could be read as several fields is in quotes.
//! - In the JSON form, every line is one object.

use super::stderr::LineWriter;
use super::tags::{PROGRESS, PROGRESS_END};
use slog::{Drain, FnValue, Key, Level, OwnedKVList, Record, RecordStatic, Serializer, o};
use slog_term::{Decorator, FullFormat, RecordDecorator, ThreadSafeTimestampFn};
use std::cell::{Cell, RefCell};
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::SystemTime;
use time::OffsetDateTime;
use time::format_description::StaticFormatDescription;
use time::macros::format_description;

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text for people. Coloured on a terminal.
    Text,
    /// One JSON object per line.
    Json,
    /// `raftkvd: ` and the message: for subcommands, and for a command line that is not valid.
    Command,
}

/// RFC 3339 in UTC, to the millisecond.
const TIMESTAMP: StaticFormatDescription =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// A time in UTC, as RFC 3339 writes it.
pub fn timestamp(time: SystemTime) -> String {
    // Formatting fails after the year 9999.
    let text = OffsetDateTime::from(time).format(TIMESTAMP);
    text.unwrap_or_default()
}

/// The time at which the current record was made, in milliseconds since 1970. The record may have waited in the queue.
#[derive(Debug, Clone, Default)]
pub(super) struct RecordTime(Arc<AtomicI64>);

impl RecordTime {
    pub(super) fn set(&self, time: SystemTime) {
        let since = OffsetDateTime::from(time).unix_timestamp_nanos() / 1_000_000;
        self.0.store(since as i64, Ordering::Relaxed);
    }

    fn text(&self) -> String {
        let nanos = i128::from(self.0.load(Ordering::Relaxed)) * 1_000_000;
        let time = OffsetDateTime::from_unix_timestamp_nanos(nanos);
        timestamp(time.unwrap_or(OffsetDateTime::UNIX_EPOCH).into())
    }
}

/// The name of a level, as in `--log-level`.
fn level_name(level: Level) -> &'static str {
    match level {
        Level::Critical | Level::Error => "error",
        Level::Warning => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// Whether a character is escaped: C0, DEL, C1, and the characters of Unicode that end a line or change its direction.
fn is_escaped(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{2028}' | '\u{2029}' | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{feff}'
        )
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A value of the text form: in quotes, as in JSON, if its end would not be clear without them.
fn value_text(value: &str) -> String {
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | ',' | '=');
    if !value.is_empty() && !value.contains(ends) && !value.ends_with(':') {
        return one_line(value);
    }
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if is_escaped(c) => quoted.extend(c.escape_default()),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// The text with its control characters escaped.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if is_escaped(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// Writes records to stderr or, in tests, to anything.
pub(super) struct Lines<W: io::Write> {
    form: Form<W>,
    /// Where progress bars are drawn, if stderr is a terminal.
    bars: Option<io::Stderr>,
    bar_shown: Cell<bool>,
}

enum Form<W: io::Write> {
    Text(FullFormat<Paint<W>>),
    Json(slog_json::Json<JsonEscapes<W>>),
    Command(RefCell<LineWriter<W>>),
}

/// Whether progress is shown as a bar.
pub(super) fn has_bars(format: Format) -> bool {
    format != Format::Json && io::stderr().is_terminal()
}

/// Whether the text may have colours: see <https://no-color.org>.
fn has_colours() -> bool {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let is_capable = variable("TERM").is_some_and(|term| term != "dumb");
    io::stderr().is_terminal() && is_capable && variable("NO_COLOR").is_none()
}

impl Lines<io::Stderr> {
    pub(super) fn to_stderr(format: Format, time: &RecordTime) -> Lines<io::Stderr> {
        let bars = has_bars(format).then(io::stderr);
        let colours = format == Format::Text && has_colours();
        Lines {
            bars,
            ..Lines::new(format, time, io::stderr(), colours)
        }
    }
}

impl<W: io::Write + Send + 'static> Lines<W> {
    pub(super) fn new(format: Format, time: &RecordTime, out: W, colours: bool) -> Lines<W> {
        let writer = LineWriter::new(out);
        let form = match format {
            Format::Text => Form::Text(text(writer, time.clone(), colours)),
            Format::Json => Form::Json(json(writer, time.clone())),
            Format::Command => Form::Command(RefCell::new(writer)),
        };
        Lines {
            form,
            bars: None,
            bar_shown: Cell::new(false),
        }
    }

    /// Draws the bar of this record.
    fn draw(&self, mut bars: &io::Stderr, record: &Record<'_>) -> io::Result<()> {
        let mut bar = Bar(String::new());
        // Formatting into a string can't fail.
        let _ = slog::KV::serialize(&record.kv(), record, &mut bar);
        self.bar_shown.set(true);
        bars.write_all(
            format!("\r{} {}\x1b[K", bar.0, one_line(&record.msg().to_string())).as_bytes(),
        )
    }

    fn clear(&self, mut bars: &io::Stderr) -> io::Result<()> {
        match self.bar_shown.replace(false) {
            true => bars.write_all(b"\r\x1b[K"),
            false => Ok(()),
        }
    }

    fn line(&self, record: &Record<'_>, values: &OwnedKVList) -> io::Result<()> {
        match &self.form {
            Form::Text(text) => text.log(record, values),
            Form::Json(json) => json.log(record, values),
            Form::Command(out) => {
                let mut out = out.borrow_mut();
                writeln!(out, "raftkvd: {}", one_line(&record.msg().to_string()))?;
                out.flush()
            }
        }
    }
}

impl<W: io::Write + Send + 'static> Drain for Lines<W> {
    type Ok = ();
    type Err = io::Error;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> io::Result<()> {
        match (record.tag(), &self.bars, &self.form) {
            (PROGRESS, Some(bars), _) => self.draw(bars, record),
            (PROGRESS_END, Some(bars), _) => self.clear(bars),
            (PROGRESS_END, None, _) | (PROGRESS, None, Form::Command(_)) => Ok(()),
            (PROGRESS, None, _) => {
                let told = RecordStatic {
                    location: record.location(),
                    tag: record.tag(),
                    level: record.level(),
                };
                self.line(&Record::new(&told, record.msg(), slog::b!()), values)
            }
            (_, bars, _) => {
                if let Some(bars) = bars {
                    self.clear(bars)?;
                }
                self.line(record, values)
            }
        }
    }
}

/// The value `bar` of a record.
struct Bar(String);

impl Serializer for Bar {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        if key == "bar" {
            self.0.write_fmt(*value)?;
        }
        Ok(())
    }
}

// ---- text ----

fn text<W: io::Write>(
    writer: LineWriter<W>,
    time: RecordTime,
    colours: bool,
) -> FullFormat<Paint<W>> {
    let paint = Paint {
        out: RefCell::new(writer),
        colours,
    };
    FullFormat::new(paint)
        .use_custom_timestamp(move |out: &mut dyn io::Write| write!(out, "{}", time.text()))
        .use_custom_header_print(header)
        .use_original_order()
        .build()
}

/// Writes the time, the level and the message. Returns whether a comma must follow.
fn header(
    time: &dyn ThreadSafeTimestampFn<Output = io::Result<()>>,
    mut line: &mut dyn RecordDecorator,
    record: &Record<'_>,
    _use_file_location: bool,
) -> io::Result<bool> {
    line.start_timestamp()?;
    time(&mut line)?;
    line.start_whitespace()?;
    write!(line, " ")?;
    line.start_level()?;
    write!(line, "{}", level_name(record.level()).to_ascii_uppercase())?;
    line.start_whitespace()?;
    write!(line, " ")?;
    line.start_msg()?;
    write!(line, "{}", record.msg())?;
    Ok(true)
}

/// Escapes messages, keys and values, and colours the line.
struct Paint<W: io::Write> {
    out: RefCell<LineWriter<W>>,
    colours: bool,
}

impl<W: io::Write> Decorator for Paint<W> {
    fn with_record<F>(&self, record: &Record<'_>, _: &OwnedKVList, f: F) -> io::Result<()>
    where
        F: FnOnce(&mut dyn RecordDecorator) -> io::Result<()>,
    {
        f(&mut PaintedLine {
            out: &mut *self.out.borrow_mut(),
            level: record.level(),
            colours: self.colours,
            painted: false,
            escapes: false,
            value: None,
        })
    }
}

struct PaintedLine<'a, W: io::Write> {
    out: &'a mut LineWriter<W>,
    level: Level,
    colours: bool,
    /// A colour or a weight has been set and must be reset.
    painted: bool,
    /// The current part is a message or a key.
    escapes: bool,
    /// The current part is a value, which is written when it is complete.
    value: Option<Vec<u8>>,
}

impl<W: io::Write> PaintedLine<'_, W> {
    fn paint(&mut self, look: &str) -> io::Result<()> {
        if self.colours {
            self.painted = true;
            write!(self.out, "\x1b[{look}m")?;
        }
        Ok(())
    }

    fn start(&mut self, look: &str) -> io::Result<()> {
        self.reset()?;
        self.escapes = true;
        self.paint(look)
    }
}

impl<W: io::Write> io::Write for PaintedLine<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(value) = &mut self.value {
            value.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        match self.escapes {
            // The formatter writes whole characters.
            true => self
                .out
                .write_all(one_line(&String::from_utf8_lossy(bytes)).as_bytes())?,
            false => self.out.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<W: io::Write> RecordDecorator for PaintedLine<'_, W> {
    fn reset(&mut self) -> io::Result<()> {
        self.escapes = false;
        if let Some(value) = self.value.take() {
            let text = value_text(&String::from_utf8_lossy(&value));
            self.out.write_all(text.as_bytes())?;
        }
        match std::mem::take(&mut self.painted) {
            true => write!(self.out, "\x1b[0m"),
            false => Ok(()),
        }
    }

    fn start_level(&mut self) -> io::Result<()> {
        self.reset()?;
        self.paint(match self.level {
            Level::Critical | Level::Error => "31",
            Level::Warning => "33",
            Level::Info => "32",
            Level::Debug | Level::Trace => "36",
        })
    }

    fn start_msg(&mut self) -> io::Result<()> {
        self.start("1")
    }

    fn start_key(&mut self) -> io::Result<()> {
        self.start("1")
    }

    fn start_value(&mut self) -> io::Result<()> {
        self.reset()?;
        self.value = Some(Vec::new());
        Ok(())
    }
}

// ---- JSON ----

fn json<W: io::Write>(writer: LineWriter<W>, time: RecordTime) -> slog_json::Json<JsonEscapes<W>> {
    slog_json::Json::new(JsonEscapes(writer))
        .set_flush(true)
        .add_key_value(o!("ts" => FnValue(move |_: &Record<'_>| time.text())))
        .add_key_value(o!("level" => FnValue(|record: &Record<'_>| level_name(record.level()))))
        .add_key_value(o!("msg" => FnValue(|record: &Record<'_>| record.msg().to_string())))
        .build()
}

/// Escapes the characters that `serde_json` does not escape. They occur only in strings.
struct JsonEscapes<W: io::Write>(LineWriter<W>);

impl<W: io::Write> io::Write for JsonEscapes<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let is_rest = |c: char| is_escaped(c) && !c.is_ascii_control() || c == '\u{7f}';
        // The serializer writes whole characters.
        match std::str::from_utf8(bytes) {
            Ok(text) if text.contains(is_rest) => {
                for c in text.chars() {
                    match is_rest(c) {
                        true => write!(self.0, "\\u{:04x}", u32::from(c))?,
                        false => write!(self.0, "{c}")?,
                    }
                }
            }
            _ => self.0.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use slog::{Logger, info, warn};
    use std::time::Duration;

    #[derive(Clone, Default)]
    struct Bytes(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Bytes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const HOSTILE: &str =
        "a\nb\r\t\u{1b}[1m\u{7f}\u{9b}\u{85}\u{2028}\u{202e}\u{2066}\u{61c}\u{feff}é";

    /// Returns what the logger writes in this form, at a known time.
    fn written(format: Format, colours: bool, log: impl FnOnce(&Logger)) -> String {
        let (bytes, time) = (Bytes::default(), RecordTime::default());
        time.set(SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_827_723_456));
        let lines = Lines::new(format, &time, bytes.clone(), colours);
        let drain = std::sync::Mutex::new(lines).fuse();
        log(&Logger::root(drain, o!("member" => 2)));
        String::from_utf8(bytes.0.lock().clone()).unwrap()
    }

    #[test]
    fn text_has_time_level_message_and_values() {
        let text = written(Format::Text, false, |logger| {
            info!(logger, "became {}", "leader"; "was" => "follower", "term" => 7);
            warn!(logger, "plain");
        });
        let time = "2026-11-28T01:02:03.456Z";
        assert_eq!(
            text,
            format!(
                "{time} INFO became leader, member: 2, was: follower, term: 7\n{time} WARN plain, member: 2\n"
            )
        );
        let text = written(Format::Command, false, |logger| {
            info!(logger, "why\nnot"; "exit_code" => 2);
        });
        assert_eq!(text, "raftkvd: why\\nnot\n");
    }

    #[test]
    fn text_escapes_what_is_not_plain_and_nothing_else() {
        let escaped =
            r"a\nb\r\t\u{1b}[1m\u{7f}\u{9b}\u{85}\u{2028}\u{202e}\u{2066}\u{61c}\u{feff}é";
        let text = written(Format::Text, false, |logger| {
            info!(logger, "{}", HOSTILE; "value" => HOSTILE);
        });
        // One of the characters is white space, so the value is in quotes.
        let end = format!(" INFO {escaped}, member: 2, value: \"{escaped}\"\n");
        assert!(text.ends_with(&end), "{text:?}");
        // The only control characters left are those of the colours.
        let text = written(Format::Text, true, |logger| {
            info!(logger, "{}", HOSTILE; "value" => HOSTILE);
        });
        assert_eq!(text.lines().count(), 1);
        assert!(text.contains("\x1b[32mINFO\x1b[0m \x1b[1m"), "{text:?}");
        assert_eq!(text.matches(escaped).count(), 2, "{text:?}");
    }

    #[test]
    fn a_value_that_could_be_read_as_several_fields_is_in_quotes() {
        let text = written(Format::Text, false, |logger| {
            warn!(logger, "down"; "url" => "http://[::1]:7", "error" => "it failed, member: 7", "why" => "a \"b\\",
                "code" => "c,result:done", "none" => "", "path" => "a\\b", "key" => "k:");
        });
        let (_, fields) = text.split_once("member: 2, ").unwrap();
        assert_eq!(
            fields,
            "url: http://[::1]:7, error: \"it failed, member: 7\", why: \"a \\\"b\\\\\", \
             code: \"c,result:done\", none: \"\", path: a\\b, key: \"k:\"\n"
        );
    }

    #[test]
    fn json_is_ascii_where_it_matters_and_survives() {
        let text = written(Format::Json, false, |logger| {
            warn!(logger, "{}", HOSTILE; "value" => HOSTILE, "ms" => 7);
        });
        assert!(!text.trim_end().contains(is_escaped), "{text:?}");
        let start = "{\"ts\":\"2026-11-28T01:02:03.456Z\",\"level\":\"warn\",\"msg\":\"a\\nb";
        assert!(text.starts_with(start), "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&value["msg"], &value["value"]),
            (&HOSTILE.into(), &HOSTILE.into())
        );
        assert_eq!((&value["ms"], &value["member"]), (&7.into(), &2.into()));
    }

    #[test]
    fn a_fatal_line_stays_one_line() {
        assert_eq!(one_line("a\nb\u{1b}[1mé"), "a\\nb\\u{1b}[1mé");
    }

    #[test]
    fn progress_is_a_line_without_its_bar_where_there_is_no_terminal() {
        let tell = |logger: &Logger| {
            info!(logger, #PROGRESS, "replaying: 43 %"; "bar" => "[##--]");
            info!(logger, #PROGRESS_END, "");
        };
        assert!(written(Format::Text, false, tell).ends_with("INFO replaying: 43 %, member: 2\n"));
        assert_eq!(written(Format::Command, false, tell), "");
    }
}
