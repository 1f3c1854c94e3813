//! TLS: handshakes, the certificate of this member, and ports without TLS.

use super::{AcceptingPort, Counter, Label};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::time::SystemTime;

/// Counters of TLS. Without `--tls` they stay 0.
#[derive(Debug)]
pub struct TlsMetrics {
    handshakes: Family<Label, Counter>,
    done: [Counter; 2],
    failed: Family<Label, Counter>,
    not_done: [Counter; 2],
    /// Attempts to read the files again that found an error.
    pub reloads_failed: Counter,
    not_after: Gauge,
    insecure: Gauge,
}

impl Default for TlsMetrics {
    fn default() -> TlsMetrics {
        let (handshakes, failed) = (Family::default(), Family::default());
        let ports = ["client", "peer"];
        TlsMetrics {
            done: ports.map(|port| Family::get_or_create_owned(&handshakes, &[("port", port)])),
            not_done: ports.map(|port| Family::get_or_create_owned(&failed, &[("port", port)])),
            handshakes,
            failed,
            reloads_failed: Counter::default(),
            not_after: Gauge::default(),
            insecure: Gauge::default(),
        }
    }
}

impl TlsMetrics {
    /// Counts a handshake, by whether it was accepted.
    pub fn handshake(&self, port: AcceptingPort, is_done: bool) {
        match is_done {
            true => self.done[port as usize].inc(),
            false => self.not_done[port as usize].inc(),
        };
    }

    /// Sets the end of the own certificate.
    pub fn set_not_after(&self, time: SystemTime) {
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since.map_or(0, |since| since.as_secs());
        self.not_after.set(seconds.try_into().unwrap_or(i64::MAX));
    }

    /// Sets whether a port beyond loopback lacks TLS.
    pub fn set_insecure(&self, is_insecure: bool) {
        self.insecure.set(is_insecure.into());
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "tls_handshakes",
            "TLS handshakes that were accepted",
            self.handshakes.clone(),
        );
        registry.register(
            "tls_handshakes_failed",
            "TLS handshakes that failed or did not end in time, and connections that did not speak TLS",
            self.failed.clone(),
        );
        registry.register(
            "tls_reloads_failed",
            "Attempts to read changed certificates that found an error, so the earlier certificates stay in use",
            self.reloads_failed.clone(),
        );
        registry.register_with_unit(
            "tls_certificate_not_after",
            "Time at which the certificate of this member ends, in seconds since 1970, 0 without TLS",
            Unit::Seconds,
            self.not_after.clone(),
        );
        registry.register(
            "insecure",
            "1 if a port of this member is open beyond loopback without TLS",
            self.insecure.clone(),
        );
    }
}
