//! The ceiling: hyper with the daemon's settings and replies, and nothing behind it. No server on this stack can be
//! faster; the difference between it and the daemon is what raft, the log and the map cost.
//!
//! It is a process of its own, as the daemon is: this program, started again with an argument that no user needs.

use crate::request::VALUE_BYTES;
use crate::server::Server;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, ETAG, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use raftkvd::limits;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::net::{TcpListener, TcpStream};

/// Makes this program the ceiling.
pub const ARGUMENT: &str = "--serve-the-ceiling";

/// What a GET is answered with, as long as the values of the load.
static VALUE: [u8; VALUE_BYTES] = [b'v'; VALUE_BYTES];
static WRITES: AtomicU64 = AtomicU64::new(1);

/// Serves on a port of its choice, which it prints, until its stdin ends: that is when the bench has ended.
pub fn serve() {
    std::thread::spawn(|| {
        // Nothing comes; it returns when the other side is gone.
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(limits::runtime_threads())
        .enable_all()
        .build()
        .expect("start the runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("listen");
        println!("{}", listener.local_addr().expect("the own address"));
        // As in the daemon, connections are accepted by a task and not by the thread that waits here.
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accept a connection");
                tokio::spawn(connection(stream));
            }
        });
        accepting.await.expect("accepting does not end");
    });
}

/// As `src/api/connection.rs` has it.
async fn connection(stream: TcpStream) {
    stream.set_nodelay(true).expect("set TCP_NODELAY");
    // A client that goes away is no error.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_TIMEOUT)
        .max_buf_size(limits::HEADER_BYTES_MAX)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await;
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    if request.method() == Method::GET {
        let mut reply = Response::new(Full::new(Bytes::from_static(&VALUE)));
        set_etag(&mut reply, WRITES.load(Ordering::Relaxed));
        let headers = reply.headers_mut();
        let octets = HeaderValue::from_static("application/octet-stream");
        headers.insert(CONTENT_TYPE, octets);
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        return Ok(reply);
    }
    request.into_body().collect().await?;
    let mut reply = Response::default();
    *reply.status_mut() = StatusCode::NO_CONTENT;
    set_etag(&mut reply, WRITES.fetch_add(1, Ordering::Relaxed));
    Ok(reply)
}

fn set_etag(reply: &mut Response<Full<Bytes>>, index: u64) {
    let etag = HeaderValue::try_from(format!("\"{index}\"")).expect("digits in quotes are valid");
    reply.headers_mut().insert(ETAG, etag);
}

/// The ceiling as a child process.
pub struct Ceiling {
    child: Child,
    address: SocketAddr,
}

impl Ceiling {
    pub fn start() -> Ceiling {
        let mut child = Command::new(std::env::current_exe().expect("this program's path"))
            .arg(ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the ceiling");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("read the ceiling's address");
        let address = line.trim().parse().expect("the ceiling says its address");
        Ceiling { child, address }
    }

    pub fn server(&self) -> Server {
        Server {
            name: "ceiling".to_owned(),
            addresses: vec![self.address],
            pids: vec![self.child.id()],
            leader: None,
            tls: None,
        }
    }
}

impl Drop for Ceiling {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
