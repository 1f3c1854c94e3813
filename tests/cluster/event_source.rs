//! A client of `GET /-/watch`: what a browser's `EventSource` is, but for coming back by itself.
//!
//! [`Watch`] reads one response, block by block. It asserts what holds of every stream (ids never go down, the last event
//! of a response is whole) and leaves all else to the test: [`crate::watch`] looks at single streams, and
//! `faults/watchers.rs` at those that are cut and resumed.

use crate::http::{Connection, Response};
use serde_json::Value;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// One response of a watch.
pub struct Watch {
    pub connection: Connection,
    /// What came and was not taken yet.
    text: Vec<u8>,
    /// The last id that came.
    pub id: u64,
}

/// An event, or what else tells an id.
#[derive(Debug)]
pub struct Block {
    pub event: Option<String>,
    pub id: Option<u64>,
    pub data: Option<Value>,
}

/// Why a watch did not begin.
#[derive(Debug)]
pub enum NotBegun {
    /// There was an answer, and it was not 200.
    Refused(Box<Response>),
    /// There was none, or it broke off.
    Broken(io::Error),
}

impl Watch {
    /// Begins to watch, behind the id if there is one; the answer has to be 200.
    pub fn open(address: SocketAddr, query: &str, id: Option<u64>) -> io::Result<Watch> {
        Watch::begin(Connection::open(address)?, query, id).map_err(|why| match why {
            NotBegun::Refused(response) => io::Error::other(format!("{response:?}")),
            NotBegun::Broken(error) => error,
        })
    }

    /// The same, where nothing may take longer than this.
    pub fn impatient(
        address: SocketAddr,
        query: &str,
        id: Option<u64>,
        patience: Duration,
    ) -> Result<Watch, NotBegun> {
        let connection = Connection::impatient(address, patience).map_err(NotBegun::Broken)?;
        Watch::begin(connection, query, id)
    }

    fn begin(mut connection: Connection, query: &str, id: Option<u64>) -> Result<Watch, NotBegun> {
        let mut head = format!("GET /-/watch{query} HTTP/1.1\r\nHost: localhost\r\n");
        if let Some(id) = id {
            head += &format!("Last-Event-ID: {id}\r\n");
        }
        let sent = connection.write((head + "\r\n").as_bytes());
        sent.map_err(NotBegun::Broken)?;
        let mut response = connection.head().map_err(NotBegun::Broken)?;
        if response.status != 200 {
            let body = connection.body(&response).map_err(NotBegun::Broken)?;
            response.body = body;
            return Err(NotBegun::Refused(Box::new(response)));
        }
        let mut watch = Watch {
            connection,
            text: Vec::new(),
            id: 0,
        };
        let first = watch.block().map_err(NotBegun::Broken)?;
        let first = first.ok_or_else(|| NotBegun::Broken(io::ErrorKind::UnexpectedEof.into()))?;
        assert!(first.data.is_none() && first.id.is_some(), "{first:?}");
        assert!(id.is_none_or(|id| first.id == Some(id)), "{first:?}");
        Ok(watch)
    }

    /// The next block, or `None` when the response has ended as it should.
    pub fn block(&mut self) -> io::Result<Option<Block>> {
        // A large event comes in many pieces, and one may end within a character.
        let mut searched = 0;
        let text = loop {
            let end = self.text[searched..]
                .windows(2)
                .position(|two| two == b"\n\n");
            if let Some(end) = end {
                let rest = self.text.split_off(searched + end + 2);
                let text = std::mem::replace(&mut self.text, rest);
                break String::from_utf8(text).expect("events are text");
            }
            searched = self.text.len().saturating_sub(1);
            match self.connection.chunk()? {
                Some(chunk) => self.text.extend_from_slice(&chunk),
                None => {
                    assert_eq!(self.text, b"", "half an event");
                    return Ok(None);
                }
            }
        };
        let field = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| Some(line.strip_prefix(name)?.to_owned()))
        };
        let id = field("id: ").map(|id| id.parse().expect("a number"));
        assert!(
            id.is_none_or(|id| id >= self.id),
            "{id:?} after {}",
            self.id
        );
        self.id = id.unwrap_or(self.id);
        let data = field("data: ").map(|data| serde_json::from_str(&data).expect("JSON"));
        let event = field("event: ");
        Ok(Some(Block { event, id, data }))
    }

    /// The next change.
    pub fn change(&mut self) -> io::Result<Value> {
        loop {
            let block = self.block()?;
            let block = block.ok_or_else(|| io::Error::other("the response has ended"))?;
            match block.data {
                Some(data) if block.event.is_none() => return Ok(data),
                Some(_) => panic!("{block:?}"),
                None => {}
            }
        }
    }
}
