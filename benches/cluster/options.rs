//! What the command line asks for.

use std::time::Duration;

const USAGE: &str = "usage: cargo bench --bench cluster -- [--seconds S] [--rounds N] [--smoke] \
                     [load|values|tls|failover|start|etcd ...]";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    Load,
    Values,
    Tls,
    Failover,
    Start,
    Etcd,
}

impl Section {
    const ALL: [Section; 6] = [
        Section::Load,
        Section::Values,
        Section::Tls,
        Section::Failover,
        Section::Start,
        Section::Etcd,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Section::Load => "load",
            Section::Values => "values",
            Section::Tls => "tls",
            Section::Failover => "failover",
            Section::Start => "start",
            Section::Etcd => "etcd",
        }
    }
}

pub struct Options {
    pub seconds: f64,
    pub rounds: usize,
    /// How often something is killed, handed over or started.
    pub events: usize,
    pub keys: usize,
    /// Idle connections whose memory is measured.
    pub idle_connections: usize,
    pub sections: Vec<Section>,
}

impl Options {
    pub fn parse(arguments: &[String]) -> Result<Options, String> {
        let (mut seconds, mut rounds, mut smoke) = (None, None, false);
        let mut sections = Vec::new();
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().and_then(|word| word.parse::<f64>().ok());
            match word.as_str() {
                // cargo says it to every bench.
                "--bench" => {}
                "--smoke" => smoke = true,
                "--seconds" => {
                    let given = value().filter(|seconds| (0.01..=3600.0).contains(seconds));
                    seconds = Some(given.ok_or("--seconds takes a number from 0.01 to 3600")?);
                }
                "--rounds" => {
                    let given = value().filter(|rounds| (1.0..=1000.0).contains(rounds));
                    rounds = Some(given.ok_or("--rounds takes a number from 1 to 1000")? as usize);
                }
                name => {
                    let section = Section::ALL.into_iter().find(|s| s.name() == name);
                    let section = section.ok_or(format!("{name}: not known; {USAGE}"))?;
                    if !sections.contains(&section) {
                        sections.push(section);
                    }
                }
            }
        }
        if sections.is_empty() {
            sections = Section::ALL.to_vec();
        }
        Ok(Options {
            seconds: seconds.unwrap_or(if smoke { 0.04 } else { 5.0 }),
            rounds: rounds.unwrap_or(if smoke { 1 } else { 3 }),
            events: if smoke { 1 } else { 10 },
            keys: if smoke { 1_000 } else { 10_000 },
            idle_connections: if smoke { 50 } else { 1_000 },
            sections,
        })
    }

    pub fn measure(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// A fifth of what is measured.
    pub fn warm_up(&self) -> Duration {
        self.measure() / 5
    }
}
