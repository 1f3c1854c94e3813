//! How figures are printed: aligned, at most 120 columns wide.

use crate::cell::Cell;

/// The head of a table of loads.
pub fn head(title: &str) {
    println!("\n==== {title}");
    println!(
        "{:<17}{:>8}{:>6}{:>7} {:<17}{:>8}{:>8}{:>8}{:>5}{:>8}{:>8}  CPU s/100k",
        "",
        "req/s",
        "+-%",
        "ratio",
        "target",
        "p50 us",
        "p99 us",
        "p99.9",
        "err",
        "ent/syn",
        "KiB/syn",
    );
}

/// A row of it: `ratio` is that to the ceiling, `target` what is asked for and whether it is met.
pub fn row(name: &str, cell: &Cell, ratio: Option<f64>, target: &str) {
    let ratio = ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
    let optional = |value: f64| match value {
        0.0 => "-".to_owned(),
        value if value < 9.95 => format!("{value:.2}"),
        value => format!("{value:.0}"),
    };
    let servers: Vec<String> = cell.cpu().iter().map(|cpu| format!("{cpu:.1}")).collect();
    let cpu = match servers.is_empty() {
        true => String::new(),
        false => format!(
            "{} g{:.1}",
            servers.join("+"),
            cell.median(|round| round.generator_cpu)
        ),
    };
    println!(
        "{name:<17}{:>8.0}{:>6.0}{ratio:>7} {target:<17}{:>8.0}{:>8.0}{:>8.0}{:>5}{:>8}{:>8}  {cpu}",
        cell.median(|round| round.rate),
        cell.spread() * 100.0,
        cell.median(|round| round.p50_us),
        cell.median(|round| round.p99_us),
        cell.median(|round| round.p999_us),
        cell.errors(),
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
