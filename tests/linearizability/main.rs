//! The tests of the linearizability checker itself: it has to pass every good history and to catch every bad one.

// What it prints is for whoever runs it.
#![allow(clippy::print_stdout)]

mod checker;

mod across;
mod exhaustive;
mod histories;
mod random;
