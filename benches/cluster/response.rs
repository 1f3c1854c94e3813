//! The least of HTTP/1.1 that tells where a response ends and what its status is: no allocation unless a head comes in
//! pieces.

/// Longest head that is taken for one.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Where a connection stands in its response.
#[derive(Default)]
pub struct Parser {
    /// The beginning of a head whose rest is still to come.
    partial: Vec<u8>,
    body: Option<Body>,
}

struct Body {
    status: u16,
    length: Length,
}

enum Length {
    Left(usize),
    /// Chunked. Nobody here sends more than a line of it, so the end is looked for as text.
    Chunked(Vec<u8>),
}

impl Parser {
    /// Takes what came. `Some`: the response, of this status, is whole.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<u16>, String> {
        let joined;
        let mut bytes = bytes;
        if self.body.is_none() {
            if !self.partial.is_empty() {
                self.partial.extend_from_slice(bytes);
                joined = std::mem::take(&mut self.partial);
                bytes = &joined;
            }
            let Some(end) = find(bytes, b"\r\n\r\n") else {
                if bytes.len() > HEAD_BYTES_MAX {
                    return Err("a response's head does not end".to_owned());
                }
                self.partial = bytes.to_vec();
                return Ok(None);
            };
            self.body = Some(head(&bytes[..end + 2])?);
            bytes = &bytes[end + 4..];
        }
        let Some(body) = &mut self.body else {
            return Ok(None);
        };
        let whole = match &mut body.length {
            Length::Left(left) => {
                if bytes.len() > *left {
                    return Err("bytes behind a response that nobody asked for".to_owned());
                }
                *left -= bytes.len();
                *left == 0
            }
            Length::Chunked(seen) => {
                seen.extend_from_slice(bytes);
                seen.ends_with(b"\r\n0\r\n\r\n") || seen.as_slice() == b"0\r\n\r\n"
            }
        };
        Ok(whole.then(|| self.body.take().map_or(0, |body| body.status)))
    }
}

/// Reads a head: its lines, each with its end.
fn head(bytes: &[u8]) -> Result<Body, String> {
    let status = bytes
        .strip_prefix(b"HTTP/1.1 ")
        .and_then(|rest| std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok())
        .ok_or_else(|| {
            let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or(bytes);
            format!("no status line: {}", String::from_utf8_lossy(line))
        })?;
    let mut length = Length::Left(0);
    for line in bytes.split(|byte| *byte == b'\n').skip(1) {
        if let Some(value) = header(line, b"content-length:") {
            let digits = std::str::from_utf8(value).map(str::trim);
            let count = digits.ok().and_then(|digits| digits.parse().ok());
            length = Length::Left(count.ok_or("a content-length that is no number")?);
        } else if header(line, b"transfer-encoding:").is_some() {
            length = Length::Chunked(Vec::new());
        }
    }
    if status == 204 {
        length = Length::Left(0);
    }
    Ok(Body { status, length })
}

fn header<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let start = line.get(..name.len())?;
    start
        .eq_ignore_ascii_case(name)
        .then(|| &line[name.len()..])
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
