//! Section `load`: writes and reads of small values, on one member and on three, beside the ceiling and the disk.

use crate::ceiling::Ceiling;
use crate::cell::{self, Cell};
use crate::daemons::Cluster;
use crate::disk;
use crate::options::Options;
use crate::request::{Kind, Requests, VALUE_BYTES};
use crate::server::Server;
use crate::table::{self, Ratios};
use crate::targets::{self, Target, Through};
use crate::verdicts::Verdicts;
use std::path::Path;

const CONNECTIONS: [usize; 3] = [1, 64, 256];
const KINDS: [Kind; 3] = [Kind::Put, Kind::Get, Kind::Stale];
/// Runs in one round: the ceiling and four ways to raftkvd for each figure, and the disk where it matters.
pub const RUNS: usize = CONNECTIONS.len() * KINDS.len() * 5 + 2;

/// What is compared in one table, the ceiling first.
struct Contender {
    server: Server,
    /// Members, 0 for the ceiling.
    nodes: usize,
    through: Through,
}

pub fn run(dir: &Path, options: &Options, verdicts: &mut Verdicts) {
    let ceiling = Ceiling::start();
    let one = Cluster::start(&dir.join("one"), 1);
    let mut three = Cluster::start(&dir.join("three"), 3);
    println!(
        "\nPUT and GET: values of {VALUE_BYTES} B, {} keys. ratio: of req/s to the ceiling's.",
        options.keys
    );
    println!(
        "w/sync, e/sync, K/sync: writes, entries and KiB for each fdatasync of the leader's log."
    );
    println!(
        "CPU: of each process, the leader first; g: of the generator; x: the ceiling's sum to this one, which"
    );
    println!(
        "is the ratio that is left where only CPU time counts: steadier when others use the machine too."
    );
    let fill = Requests::new(Kind::Put, options.keys, VALUE_BYTES);
    cell::fill(&one.server("1 node", 0, &[0]), &fill);
    cell::fill(&three.server("3 nodes", three.leader(), &[0]), &fill);
    for kind in KINDS {
        let requests = Requests::new(kind, options.keys, VALUE_BYTES);
        for connections in CONNECTIONS {
            three.wait_until_settled();
            let contenders = contenders(&ceiling, &one, &three);
            let leader = three.leader();
            compare(&requests, connections, &contenders, dir, options, verdicts);
            if three.leader() != leader {
                println!(
                    "    the leader changed meanwhile: \"leader\" and \"follower\" are mixed up"
                );
            }
        }
    }
}

fn contenders(ceiling: &Ceiling, one: &Cluster, three: &Cluster) -> Vec<Contender> {
    let leader = three.leader();
    let contender = |server, nodes, through| Contender {
        server,
        nodes,
        through,
    };
    vec![
        contender(ceiling.server(), 0, Through::Leader),
        contender(one.server("1 node", 0, &[0]), 1, Through::Leader),
        contender(
            three.server("3 nodes, leader", leader, &[0]),
            3,
            Through::Leader,
        ),
        contender(
            three.server("3 nodes, follower", leader, &[1]),
            3,
            Through::Follower,
        ),
        contender(
            three.server("3 nodes, all", leader, &[0, 1, 2]),
            3,
            Through::All,
        ),
    ]
}

/// One table.
fn compare(
    requests: &Requests,
    connections: usize,
    contenders: &[Contender],
    dir: &Path,
    options: &Options,
    verdicts: &mut Verdicts,
) {
    let kind = requests.kind;
    let needs_disk = kind == Kind::Put && connections == 1;
    let mut cells: Vec<Cell> = contenders.iter().map(|_| Cell::default()).collect();
    let (mut appends, mut overwrites) = (Cell::default(), Cell::default());
    for _ in 0..options.rounds {
        if needs_disk {
            let append = disk::append(dir, disk::PAGE_BYTES, options.measure());
            appends.0.push(cell::of_disk(&append));
            let overwrite = disk::overwrite(dir, disk::PAGE_BYTES, options.measure());
            overwrites.0.push(cell::of_disk(&overwrite));
        }
        for (contender, cell) in contenders.iter().zip(&mut cells) {
            let round = cell::measure(&contender.server, requests, connections, options);
            cell.0.push(round);
        }
    }
    let plural = if connections == 1 { "" } else { "s" };
    let title = format!("{}, {connections} connection{plural}", kind.name());
    table::head(&title);
    if needs_disk {
        table::row("4 KiB append", &appends, None, "with fdatasync");
        table::row("4 KiB overwrite", &overwrites, None, "with fdatasync");
    }
    let p50 = |cell: &Cell| cell.median(|round| round.p50_us);
    let ceiling = &cells[0];
    for (contender, cell) in contenders.iter().zip(&cells) {
        let name = &contender.server.name;
        let what = format!("{title}: {name}");
        let ratios = (contender.nodes > 0).then(|| Ratios::new(cell, ceiling));
        let target = targets::of_load(kind, connections, contender.nodes, contender.through);
        let verdict = match (target, &ratios) {
            (Some(Target::Share(share)), Some(ratios)) => {
                verdicts.at_least(&what, ratios.rate(), share, "")
            }
            (Some(Target::P50 { syncs, extra_us }), _) => {
                let limit = p50(ceiling) + syncs * p50(&appends) + extra_us;
                verdicts.at_most(&format!("{what}, p50"), p50(cell), limit, "us")
            }
            _ => String::new(),
        };
        table::row(name, cell, ratios.as_ref(), &verdict);
    }
}
