//! What is left out of a run.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// What is left out of a run, so that as little as possible remains of one that fails.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cuts {
    /// Number of members at the beginning, if not as drawn.
    pub members: Option<u64>,
    /// When trouble ends, if not as drawn.
    pub duration: Option<u64>,
    /// Clients, if not as drawn.
    pub clients: Option<u64>,
    /// Faults that do not happen, by their number in the run.
    pub faults: BTreeSet<u64>,
    /// Steps of the operator that are left out, by their number.
    pub steps: BTreeSet<u64>,
    /// Requests of clients that are not made, by their number.
    pub operations: BTreeSet<u64>,
}

/// As `RAFTKVD_SIMULATION_CUTS` has it: `members=3 faults=1-4,7`.
impl fmt::Display for Cuts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = [
            ("members", self.members),
            ("duration", self.duration),
            ("clients", self.clients),
        ];
        let numbers = numbers
            .into_iter()
            .filter_map(|(name, n)| Some(format!("{name}={}", n?)));
        let sets = [
            ("faults", &self.faults),
            ("steps", &self.steps),
            ("operations", &self.operations),
        ];
        let sets = sets.into_iter().filter(|(_, set)| !set.is_empty());
        let sets = sets.map(|(name, set)| format!("{name}={}", ranges(set)));
        let all: Vec<String> = numbers.chain(sets).collect();
        f.write_str(&all.join(" "))
    }
}

impl FromStr for Cuts {
    type Err = String;

    fn from_str(text: &str) -> Result<Cuts, String> {
        let mut cuts = Cuts::default();
        for part in text.split_whitespace() {
            let (name, value) = part.split_once('=').ok_or(format!("{part} has no ="))?;
            let number = || value.parse().map_err(|_| format!("{part} has no number"));
            match name {
                "members" => cuts.members = Some(number().map(|n: u64| n.max(1))?),
                "duration" => cuts.duration = Some(number()?),
                "clients" => cuts.clients = Some(number()?),
                "faults" => cuts.faults = parse_ranges(value)?,
                "steps" => cuts.steps = parse_ranges(value)?,
                "operations" => cuts.operations = parse_ranges(value)?,
                _ => return Err(format!("there is no {name} to cut")),
            }
        }
        Ok(cuts)
    }
}

fn ranges(set: &BTreeSet<u64>) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for number in set {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let texts = ranges.into_iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    texts.collect::<Vec<_>>().join(",")
}

fn parse_ranges(text: &str) -> Result<BTreeSet<u64>, String> {
    let mut set = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| -> Result<u64, String> {
            text.parse().map_err(|_| format!("{part} is no range"))
        };
        let (first, last) = (number(first)?, number(last)?);
        if last < first || last - first > 10_000_000 {
            return Err(format!("{part} is no range"));
        }
        set.extend(first..=last);
    }
    Ok(set)
}
