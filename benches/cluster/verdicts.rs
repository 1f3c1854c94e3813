//! Whether targets are met: noted where a figure is printed, and listed once more at the end.

use std::fmt::Write as _;

/// Collects what was reached, for the end of the output.
#[derive(Default)]
pub struct Verdicts {
    text: String,
    met: usize,
    missed: usize,
}

impl Verdicts {
    /// Notes a figure that has a target, and gives the words to print beside it. `unit` goes behind both numbers.
    pub fn at_least(&mut self, what: &str, measured: f64, target: f64, unit: &str) -> String {
        let met = measured >= target;
        let target = format!(">= {}", number(target, unit));
        self.note(what, &number(measured, unit), &target, met)
    }

    /// The same for a figure that is to be small.
    pub fn at_most(&mut self, what: &str, measured: f64, target: f64, unit: &str) -> String {
        let met = measured <= target;
        let target = format!("<= {}", number(target, unit));
        self.note(what, &number(measured, unit), &target, met)
    }

    fn note(&mut self, what: &str, measured: &str, target: &str, met: bool) -> String {
        let word = if met { "met" } else { "missed" };
        *(if met { &mut self.met } else { &mut self.missed }) += 1;
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{what:<62}{measured:>12}{target:>14}  {word}");
        format!("{target} {word}")
    }

    pub fn print(&self) {
        println!("\n==== targets: {} met, {} missed", self.met, self.missed);
        print!("{}", self.text);
    }
}

/// A number and its unit, which may be empty. Two decimals where they tell something.
pub fn number(value: f64, unit: &str) -> String {
    let decimals = if value.abs() < 9.995 { 2 } else { 0 };
    format!("{value:.decimals$} {unit}").trim_end().to_owned()
}
