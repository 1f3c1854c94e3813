//! A connection of the load generator, with TLS or without. Reading and writing don't wait.

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use socket2::SockRef;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// How long a connection may take to be made.
const PATIENCE: Duration = Duration::from_secs(10);

/// With what TLS is spoken. `None`: without TLS.
pub type ClientTls = Option<Arc<ClientConfig>>;

pub struct Stream {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Stream {
    /// A connection that is ready: the TLS handshake is complete.
    pub fn connect(address: SocketAddr, tls: &ClientTls) -> io::Result<Stream> {
        let mut stream = Stream::new(address, tls)?;
        if let Some(tls) = &mut stream.tls {
            stream.socket.set_read_timeout(Some(PATIENCE))?;
            while tls.is_handshaking() {
                tls.complete_io(&mut stream.socket)?;
            }
            // The last message of the handshake.
            stream.flush()?;
        }
        stream.socket.set_nonblocking(true)?;
        Ok(stream)
    }

    /// A connection for one request. The TLS handshake is completed by reading and flushing. In the end there is no
    /// farewell: the ports of many short connections would be in use for a minute after it.
    pub fn start(address: SocketAddr, tls: &ClientTls) -> io::Result<Stream> {
        let stream = Stream::new(address, tls)?;
        SockRef::from(&stream.socket).set_linger(Some(Duration::ZERO))?;
        stream.socket.set_nonblocking(true)?;
        Ok(stream)
    }

    fn new(address: SocketAddr, tls: &ClientTls) -> io::Result<Stream> {
        let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
        socket.set_nodelay(true)?;
        let tls = tls.as_ref().map(|config| session(address, config));
        let tls = tls.transpose()?.map(Box::new);
        Ok(Stream { socket, tls })
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Takes bytes of both slices. With TLS, [`Stream::flush`] may have to send the rest of them.
    pub fn write(&mut self, slices: &[IoSlice<'_>; 2]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return match slices[1].is_empty() {
                true => self.socket.write(&slices[0]),
                false => self.socket.write_vectored(slices),
            };
        };
        let count = tls.writer().write_vectored(slices)?;
        match self.flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && count > 0 => {}
            flushed => flushed?,
        }
        match count {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }

    /// Sends what is encrypted.
    pub fn flush(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                tls.write_tls(&mut self.socket)?;
            }
        }
        Ok(())
    }

    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(tls) = &mut self.tls else {
                return self.socket.read(buffer);
            };
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            if tls.read_tls(&mut self.socket)? == 0 {
                return Ok(0);
            }
            tls.process_new_packets().map_err(io::Error::other)?;
            // The rest of a handshake, and what had to wait for it. If the socket is full, epoll tells when it is not.
            match self.flush() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                flushed => flushed?,
            }
        }
    }

    /// Whether a read that left room in its buffer has emptied the socket.
    pub fn is_empty_after_short_read(&self) -> bool {
        self.tls.is_none()
    }
}

/// A session with the member at this address, whose certificate names the address.
pub fn session(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<ClientConnection> {
    let name = ServerName::IpAddress(address.ip().into());
    ClientConnection::new(config.clone(), name).map_err(io::Error::other)
}
