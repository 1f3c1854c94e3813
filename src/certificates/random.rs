//! Random bytes from the operating system.

use rustix::io::retry_on_intr;
use rustix::rand::{GetRandomFlags, getrandom};
use std::io;

/// Bytes that can't be predicted.
pub(super) fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut done = 0;
    while done < N {
        done += retry_on_intr(|| getrandom(&mut bytes[done..], GetRandomFlags::empty()))?;
    }
    Ok(bytes)
}
