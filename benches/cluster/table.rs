//! How figures are printed: aligned, about 120 columns wide.

use crate::cell::Cell;

/// The head of a table of loads.
pub fn head(title: &str) {
    println!("\n==== {title}");
    println!(
        "{:<17}{:>7}{:>5}{:>6} {:<16}{:>7}{:>7}{:>7}{:>4}{:>7}{:>7}{:>7}  CPU s/100k",
        "",
        "req/s",
        "+-%",
        "ratio",
        "target",
        "p50 us",
        "p99 us",
        "p99.9",
        "err",
        "w/sync",
        "e/sync",
        "K/sync",
    );
}

/// How a row compares with another one.
pub struct Ratios {
    /// Of the rates.
    rate: f64,
    /// Of the CPU time for a request, of all processes together.
    cpu: f64,
}

impl Ratios {
    pub fn new(cell: &Cell, other: &Cell) -> Ratios {
        let rate = |cell: &Cell| cell.median(|round| round.rate);
        let cpu = |cell: &Cell| {
            let generator = cell.median(|round| round.generator_cpu);
            cell.cpu().iter().sum::<f64>() + generator
        };
        Ratios {
            rate: rate(cell) / rate(other).max(1e-9),
            cpu: cpu(other) / cpu(cell).max(1e-9),
        }
    }

    pub fn rate(&self) -> f64 {
        self.rate
    }
}

/// A row of it; `target` is what is asked for and whether it is met.
pub fn row(name: &str, cell: &Cell, ratios: Option<&Ratios>, target: &str) {
    let ratio = ratios.map_or(String::new(), |ratios| format!("{:.2}", ratios.rate));
    let optional = |value: f64| match value {
        0.0 => "-".to_owned(),
        value if value < 9.95 => format!("{value:.2}"),
        value => format!("{value:.0}"),
    };
    let servers: Vec<String> = cell.cpu().iter().map(|cpu| format!("{cpu:.1}")).collect();
    let mut cpu = match servers.is_empty() {
        true => String::new(),
        false => format!(
            "{} g{:.1}",
            servers.join("+"),
            cell.median(|round| round.generator_cpu)
        ),
    };
    if let Some(ratios) = ratios {
        cpu += &format!(" x{:.2}", ratios.cpu);
    }
    println!(
        "{name:<17}{:>7.0}{:>5.0}{ratio:>6} {target:<16}{:>7.0}{:>7.0}{:>7.0}{:>4}{:>7}{:>7}{:>7}  {cpu}",
        cell.median(|round| round.rate),
        cell.spread() * 100.0,
        cell.median(|round| round.p50_us),
        cell.median(|round| round.p99_us),
        cell.median(|round| round.p999_us),
        cell.errors(),
        optional(cell.median(|round| round.writes_per_sync)),
        optional(cell.median(|round| round.entries_per_sync)),
        optional(cell.median(|round| round.bytes_per_sync) / 1024.0),
    );
    if let Some(why) = cell.first_error() {
        println!("    the first error: {why}");
    }
}

/// A row of times that were measured one by one, in milliseconds.
pub fn times(name: &str, milliseconds: &[f64], target: &str) {
    let most = milliseconds.iter().copied().fold(0.0, f64::max);
    let least = milliseconds.iter().copied().fold(f64::INFINITY, f64::min);
    println!(
        "{name:<58}{:>9.1}{least:>9.1}{most:>9.1}  {target}",
        crate::cell::median(milliseconds.to_vec()),
    );
}

/// The head of it.
pub fn times_head(title: &str) {
    println!("\n==== {title}");
    println!(
        "{:<58}{:>9}{:>9}{:>9}  target (median)",
        "", "median ms", "least", "most"
    );
}
