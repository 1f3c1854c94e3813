//! The operating system's view of this process, under the names that all Prometheus clients use.

use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use rustix::param::page_size;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use std::fs;
use std::time::SystemTime;

#[derive(Debug)]
pub(super) struct Process {
    started: SystemTime,
}

impl Default for Process {
    fn default() -> Process {
        Process {
            started: SystemTime::now(),
        }
    }
}

impl Process {
    /// Adds the current numbers. Numbers that can't be read, for example without `/proc`, are left out.
    pub(super) fn register(&self, registry: &mut Registry) {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        registry.register_with_unit(
            "cpu",
            "Processor time that the process has used, in user and kernel mode",
            Unit::Seconds,
            ConstCounter::new(cpu),
        );
        // An error means a clock before 1970. The start time is then shown as 0.
        let started = self.started.duration_since(SystemTime::UNIX_EPOCH);
        registry.register_with_unit(
            "start_time",
            "When the process was started, since 1970",
            Unit::Seconds,
            ConstGauge::new(started.unwrap_or_default().as_secs_f64()),
        );
        if let Some((whole, resident)) = memory_bytes() {
            registry.register_with_unit(
                "virtual_memory",
                "Addresses that the process has mapped",
                Unit::Bytes,
                ConstGauge::new(whole),
            );
            registry.register_with_unit(
                "resident_memory",
                "Memory that the process has in use",
                Unit::Bytes,
                ConstGauge::new(resident),
            );
        }
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            // The file descriptor that lists the directory is not counted.
            let open = (files.count() as u64).saturating_sub(1);
            registry.register(
                "open_fds",
                "Files and connections that are open",
                ConstGauge::new(open),
            );
        }
        if let Some(max) = getrlimit(Resource::Nofile).current {
            registry.register(
                "max_fds",
                "Files and connections that may be open",
                ConstGauge::new(max),
            );
        }
    }
}

/// Virtual and resident memory.
fn memory_bytes() -> Option<(u64, u64)> {
    let pages = fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = pages.split_ascii_whitespace();
    let mut bytes = || Some(pages.next()?.parse::<u64>().ok()? * page_size() as u64);
    Some((bytes()?, bytes()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_is_what_was_allocated_and_more() {
        let space = vec![1u8; 32 << 20];
        let (whole, resident) = memory_bytes().unwrap();
        assert!(
            whole >= resident && resident >= 32 << 20,
            "{whole} {resident}"
        );
        drop(space);
    }
}
