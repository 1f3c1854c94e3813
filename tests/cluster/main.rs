//! The workflows of README and the book, run on the real binary: real processes, sockets, files and signals.
//!
//! Every module holds the tests of one area; each test builds its own cluster in its own temporary directory with
//! [`harness`], talks to it with [`http`], and waits for conditions with [`harness::eventually`], never for a fixed
//! time. A test that fails prints the end of every node's log. One test alone: `cargo test --test cluster NAME`.
//!
//! Where the book promises a time (exit within 2 s), the test allows a noisy machine about twice of that and says
//! so; all other deadlines are generous and only keep a broken daemon from hanging the run.
//!
//! [`faults`] is one long test: clients that record what they were told, while nodes, their disks and the network between
//! them fail. It runs for a minute here, and as long as it is told to alone:
//! `RAFTKVD_FAULTS_SECONDS=300 cargo test --test cluster faults:: -- --nocapture`.

// What it prints is for whoever runs it.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod cert_command;
#[path = "../linearizability/checker/mod.rs"]
mod checker;
mod clients;
mod diallers;
mod event_source;
mod harness;
mod http;
mod proxy;
mod requests;

mod answers;
mod api;
mod audit;
mod bad_input;
mod boot;
mod certificates;
mod command_line;
mod completions;
mod copies;
mod crowds;
mod disk_faults;
mod exactly_once;
mod exposure;
mod failures;
mod fairness;
mod faults;
mod fences;
mod forgeries;
mod format_2;
mod formation;
mod full_disks;
mod gate;
mod habits;
mod identity;
mod interrupted;
mod joining;
mod large_values;
mod leadership;
mod logs;
mod many_keys;
mod membership;
mod metrics;
mod mistaken_starts;
mod moving;
mod names;
mod operations;
mod peers;
mod ports;
mod private;
mod process;
mod procfile;
mod proxied;
mod quota;
mod restarts;
mod serving;
mod shortages;
mod skipped;
mod slow_readers;
mod snapshots;
mod stderr;
mod stopping;
mod supervised;
mod tls;
mod transfers;
mod versions;
mod waiting;
mod watch;
