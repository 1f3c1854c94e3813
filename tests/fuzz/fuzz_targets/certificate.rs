#![no_main]

#[path = "../allocation.rs"]
mod allocation;
#[path = "../bodies.rs"]
mod bodies;
#[path = "../../simulation/disk.rs"]
mod disk;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::certificate(data));
