//! What the command line asks for.

use crate::kernel;
use std::time::Duration;

const USAGE: &str = "usage: cargo bench --bench scale -- [--keys N] [--value-bytes N] [--seconds S] [--smoke] \
                     [restart|snapshot|memory|growth|catchup|values ...]";

/// Keys unless the command line says otherwise: where there is so much memory, and elsewhere.
const LARGE: (u64, usize) = (16 << 30, 10_000_000);
const SMALL_KEYS: usize = 2_000_000;

/// In the order in which they run: the restart finds the log as the load has left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    Restart,
    Snapshot,
    Memory,
    Growth,
    Catchup,
    Values,
}

impl Section {
    const ALL: [Section; 6] = [
        Section::Restart,
        Section::Snapshot,
        Section::Memory,
        Section::Growth,
        Section::Catchup,
        Section::Values,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Section::Restart => "restart",
            Section::Snapshot => "snapshot",
            Section::Memory => "memory",
            Section::Growth => "growth",
            Section::Catchup => "catchup",
            Section::Values => "values",
        }
    }
}

pub struct Options {
    pub keys: usize,
    pub value_bytes: usize,
    /// For each figure that is a rate.
    pub seconds: f64,
    /// How often what varies is measured.
    pub rounds: usize,
    /// Bytes of a value in the section `values`.
    pub large_value_bytes: usize,
    pub smoke: bool,
    pub sections: Vec<Section>,
}

impl Options {
    pub fn parse(arguments: &[String]) -> Result<Options, String> {
        let (mut keys, mut value_bytes, mut seconds, mut smoke) = (None, None, None, false);
        let mut sections = Vec::new();
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = |least: f64, most: f64| {
                let given = words.next().and_then(|word| word.parse::<f64>().ok());
                let given = given.filter(|number| (least..=most).contains(number));
                given.ok_or(format!("{word} takes a number from {least} to {most}"))
            };
            match word.as_str() {
                // cargo says it to every bench.
                "--bench" => {}
                "--smoke" => smoke = true,
                "--keys" => keys = Some(value(1e3, 1e9)? as usize),
                "--value-bytes" => value_bytes = Some(value(1.0, 1048576.0)? as usize),
                "--seconds" => seconds = Some(value(0.1, 3600.0)?),
                name => {
                    let section = Section::ALL.into_iter().find(|s| s.name() == name);
                    sections.push(section.ok_or(format!("{name}: not known; {USAGE}"))?);
                }
            }
        }
        if sections.is_empty() {
            sections = Section::ALL.to_vec();
        }
        sections.sort();
        sections.dedup();
        let default_keys = match smoke {
            true => 20_000,
            false if kernel::memory_bytes() >= LARGE.0 => LARGE.1,
            false => SMALL_KEYS,
        };
        Ok(Options {
            keys: keys.unwrap_or(default_keys),
            value_bytes: value_bytes.unwrap_or(100),
            seconds: seconds.unwrap_or(if smoke { 0.1 } else { 5.0 }),
            rounds: if smoke { 1 } else { 3 },
            large_value_bytes: if smoke { 4 << 20 } else { 64 << 20 },
            smoke,
            sections,
        })
    }

    /// What every member is told beside its place: the defaults, unless its state would never bring about a snapshot.
    pub fn member_options(&self) -> &'static [&'static str] {
        match self.smoke {
            true => &["--snapshot-bytes", "1M"],
            false => &[],
        }
    }

    pub fn measure(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// A fifth of what is measured; also the pause in which things come to rest.
    pub fn warm_up(&self) -> Duration {
        self.measure() / 5
    }
}
