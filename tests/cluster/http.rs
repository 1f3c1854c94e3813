//! A small blocking HTTP/1.1 client over `TcpStream`, so that the tests depend on nobody else's idea of HTTP and can
//! send what a proper client never would.
//!
//! It sends one request at a time on a connection that stays open, and reads one response. It never retries: a
//! request that was sent twice would spoil every test that counts.
//!
//! To an address that was [given](secure) certificates it speaks TLS, so a test need not know whether its cluster does.

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// How long a client waits for anything; far longer than any `--request-timeout` in these tests.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(40);

/// An answer.
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(n, _)| n == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(
            found.next().is_none(),
            "header {name} came twice: {:?}",
            self.headers
        );
        value
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The index in `ETag: "<index>"`.
    pub fn etag(&self) -> u64 {
        let etag = self
            .header("etag")
            .unwrap_or_else(|| panic!("no ETag in {self:?}"));
        etag.strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .and_then(|index| index.parse().ok())
            .unwrap_or_else(|| panic!("the ETag {etag} is no quoted index"))
    }
}

impl fmt::Debug for Response {
    /// For messages of failed tests: the body as text, and not more of it than one wants to read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.body.len().min(200);
        let body = String::from_utf8_lossy(&self.body[..shown]);
        let rest = self.body.len() - shown;
        write!(f, "{} {:?} {body:?}", self.status, self.headers)?;
        if rest > 0 {
            write!(f, " and {rest} bytes more")?;
        }
        Ok(())
    }
}

/// The certificates for each address that speaks TLS.
static SECURE: Mutex<BTreeMap<SocketAddr, Arc<ClientConfig>>> = Mutex::new(BTreeMap::new());

fn secured() -> MutexGuard<'static, BTreeMap<SocketAddr, Arc<ClientConfig>>> {
    SECURE.lock().unwrap_or_else(|e| e.into_inner())
}

/// From now on connections to this address speak TLS, with these certificates. `None`: no more.
pub fn secure(address: SocketAddr, config: Option<Arc<ClientConfig>>) {
    match config {
        Some(config) => drop(secured().insert(address, config)),
        None => drop(secured().remove(&address)),
    }
}

/// Bytes in both directions.
trait Wire: Read + Write + Send + fmt::Debug {}

impl Wire for TcpStream {}
impl Wire for StreamOwned<ClientConnection, TcpStream> {}

/// One connection to a client or peer port.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<Box<dyn Wire>>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> io::Result<Connection> {
        Connection::impatient(address, CLIENT_TIMEOUT)
    }

    /// One that waits for no answer longer than this.
    pub fn impatient(address: SocketAddr, patience: Duration) -> io::Result<Connection> {
        let config = secured().get(&address).cloned();
        match config {
            Some(config) => Connection::tls(address, patience, config),
            None => Connection::plain(address, patience),
        }
    }

    /// Without TLS.
    pub fn plain(address: SocketAddr, patience: Duration) -> io::Result<Connection> {
        Ok(Connection::over(connect(address, patience)?))
    }

    /// With TLS, after the handshake. In TLS 1.3 the other side may still refuse the certificate. Then the first read
    /// fails.
    pub fn tls(
        address: SocketAddr,
        patience: Duration,
        config: Arc<ClientConfig>,
    ) -> io::Result<Connection> {
        let mut socket = connect(address, patience)?;
        let name = ServerName::from(address.ip());
        let mut connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(Connection::over(StreamOwned::new(connection, socket)))
    }

    fn over(wire: impl Wire + 'static) -> Connection {
        Connection {
            stream: BufReader::new(Box::new(wire)),
        }
    }

    /// Sends a request and reads its response. `path` goes out as it is; see [`encode`].
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let mut message = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        for (name, value) in headers {
            message += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() || matches!(method, "PUT" | "POST") {
            message += &format!("Content-Length: {}\r\n", body.len());
        }
        message += "\r\n";
        let mut message = message.into_bytes();
        message.extend_from_slice(body);
        // A server that refuses a request early closes while we still write: its answer is what counts.
        let written = self.write(&message);
        match self.response(method == "HEAD") {
            Ok(response) => Ok(response),
            Err(error) => written.and(Err(error)),
        }
    }

    /// Writes bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let wire = self.stream.get_mut();
        wire.write_all(bytes)?;
        wire.flush()
    }

    /// Reads the status line and the headers of the next response, which may be a `100 Continue`.
    pub fn head(&mut self) -> io::Result<Response> {
        let line = self.line()?;
        let status = line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| invalid(format!("no status line: {line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| invalid(format!("no header: {line:?}")))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Response {
            status,
            headers,
            body: Vec::new(),
        })
    }

    /// Reads the next final response. `no_body`: it answers a HEAD.
    pub fn response(&mut self, no_body: bool) -> io::Result<Response> {
        let mut response = self.head()?;
        while response.status < 200 && response.status != 101 {
            response = self.head()?;
        }
        if no_body || matches!(response.status, 101 | 204 | 304) {
            return Ok(response);
        }
        response.body = self.body(&response)?;
        Ok(response)
    }

    /// Reads the body behind a head.
    pub fn body(&mut self, head: &Response) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        match head.header("content-length") {
            Some(length) => {
                let length = length
                    .parse()
                    .map_err(|_| invalid(format!("Content-Length {length:?}")))?;
                body.resize(length, 0);
                self.stream.read_exact(&mut body)?;
            }
            None if head.header("transfer-encoding").is_some() => {
                while let Some(chunk) = self.chunk()? {
                    body.extend_from_slice(&chunk);
                }
            }
            None => {
                self.stream.read_to_end(&mut body)?;
            }
        }
        Ok(body)
    }

    /// Reads the next chunk of a chunked body; `None` behind the last.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = self.line()?;
        let length = usize::from_str_radix(&line, 16)
            .map_err(|_| invalid(format!("no length of a chunk: {line:?}")))?;
        let mut chunk = vec![0; length];
        self.stream.read_exact(&mut chunk)?;
        match self.line()? {
            end if !end.is_empty() => Err(invalid(format!("behind a chunk: {end:?}"))),
            _ => Ok((length > 0).then_some(chunk)),
        }
    }

    /// Reads some bytes of what comes, at least this many.
    pub fn start(&mut self, bytes: usize) -> io::Result<()> {
        let mut read = 0;
        while read < bytes {
            let length = self.stream.fill_buf()?.len();
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.stream.consume(length);
            read += length;
        }
        Ok(())
    }

    /// Reads whatever comes until the other side closes in an orderly way.
    pub fn whole(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads until the other side closes the connection. A reset counts as a close, and so does a close without the alert
    /// of TLS.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let closed = [io::ErrorKind::ConnectionReset, io::ErrorKind::UnexpectedEof];
        match self.stream.read_to_end(&mut bytes) {
            Err(error) if !closed.contains(&error.kind()) => Err(error),
            _ => Ok(bytes),
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.stream
            .read_until(b'\n', &mut line)
            .map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => {
                    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
                }
                _ => error,
            })?;
        if line.pop() != Some(b'\n') {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection was closed before the response was whole",
            ));
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        String::from_utf8(line).map_err(|_| invalid("a header that is not UTF-8".to_owned()))
    }
}

fn connect(address: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// One request on a connection of its own.
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Response> {
    Connection::open(address)?.send(method, path, headers, body)
}

/// The path that names this key: every byte that is not plainly harmless is percent-encoded.
pub fn encode(key: &[u8]) -> String {
    let mut path = String::from("/");
    for &byte in key {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~' | b'/') {
            path.push(char::from(byte));
        } else {
            path += &format!("%{byte:02X}");
        }
    }
    path
}
