//! Ports for the nodes, so that tests in this process and in others running at the same time never share one.
//!
//! They lie below the range from which the kernel takes the local ports of outgoing connections (32768 and up on
//! Linux): a port of that range can be taken by anybody's connection while its node is down, and the node could not
//! start again. A process claims ports by the block; who holds a listener on the block's first port owns the block.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

const FIRST: u16 = 10_240;
const BLOCK: u16 = 100;
const BLOCKS: u16 = 220;

/// The ports that the Procfile uses.
const TAKEN: [u16; 6] = [12_379, 12_380, 22_379, 22_380, 32_379, 32_380];

struct Allocator {
    /// Next block to try, counted from a start that differs from process to process.
    tried: u16,
    next: u16,
    end: u16,
    /// Kept for the life of the process: they are the claims.
    claims: Vec<TcpListener>,
}

static ALLOCATOR: Mutex<Allocator> = Mutex::new(Allocator {
    tried: 0,
    next: 0,
    end: 0,
    claims: Vec::new(),
});

/// A port on which nobody listens, handed out once.
pub fn free_port() -> u16 {
    // A test that failed inside has left the allocator intact: every step of it is complete in itself.
    let mut allocator = ALLOCATOR.lock().unwrap_or_else(|e| e.into_inner());
    loop {
        if allocator.next == allocator.end {
            let start = (std::process::id() % u32::from(BLOCKS)) as u16;
            assert!(allocator.tried < BLOCKS, "every block of ports is claimed");
            let block = FIRST + (start + allocator.tried) % BLOCKS * BLOCK;
            allocator.tried += 1;
            if let Ok(claim) = TcpListener::bind((Ipv4Addr::LOCALHOST, block)) {
                allocator.claims.push(claim);
                allocator.next = block + 1;
                allocator.end = block + BLOCK;
            }
            continue;
        }
        let port = allocator.next;
        allocator.next += 1;
        if !TAKEN.contains(&port) && is_free(port) {
            return port;
        }
    }
}

/// Nobody listens on this port of any address.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}
