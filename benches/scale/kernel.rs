//! What the kernel counts: memory, and bytes written to disks.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The unit of block devices' statistics, whatever their own.
const SECTOR_BYTES: u64 = 512;

/// Of the machine.
pub fn memory_bytes() -> u64 {
    field("/proc/meminfo", "MemTotal:") * 1024
}

/// Resident in a process; 0 when it is gone.
pub fn resident_bytes(pid: u32) -> u64 {
    field(&format!("/proc/{pid}/status"), "VmRSS:") * 1024
}

/// The most that was, since [`reset_peak`] or since its start.
pub fn peak_bytes(pid: u32) -> u64 {
    field(&format!("/proc/{pid}/status"), "VmHWM:") * 1024
}

pub fn reset_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("reset the peak of a process");
}

/// What was written to the disk that holds a directory, whoever did it; 0 where the kernel does not tell.
///
/// What `/proc/PID/io` says of a process is of no use here: its `wchar` has responses to clients in it, and its
/// `write_bytes` counts whole folios, which in ext4 since Linux 6.16 is tens of times what goes to the disk.
pub fn disk_written_bytes(dir: &Path) -> u64 {
    let device = fs::metadata(dir).map_or(0, |data| data.dev());
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat"));
    let stat = stat.unwrap_or_default();
    let sectors = stat.split_whitespace().nth(6);
    sectors.and_then(|s| s.parse::<u64>().ok()).unwrap_or(0) * SECTOR_BYTES
}

/// The number behind a name at the beginning of a line.
fn field(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let rest = text.lines().find_map(|line| line.strip_prefix(name));
    let number = rest.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}
