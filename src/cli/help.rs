//! The parts of the help besides the options: examples, the meaning of values, and exit codes. The manual page prints
//! the same tables.

use crate::exit_code::ExitCode;
use std::fmt::Write as _;

/// A command line, and what it does.
pub(super) struct Example {
    /// Ends with a colon.
    pub(super) what: &'static str,
    /// The lines to type into a shell. All but the last line end with a backslash.
    pub(super) lines: &'static [&'static str],
}

/// The examples of the daemon. `-h` shows the first [`SHORT_EXAMPLES`].
const DAEMON: [Example; 7] = [
    Example {
        what: "Run a single member, to try raftkvd:",
        lines: &["raftkvd"],
    },
    Example {
        what: "Start the first of three members, with certificates of raftkvd cert:",
        lines: &[
            "raftkvd --id 1 --tls certs/member-1 --cluster \\",
            "  http://10.0.0.1:9021,http://10.0.0.2:9021,http://10.0.0.3:9021",
        ],
    },
    Example {
        what: "Join the cluster of the member that serves clients at 10.0.0.1:9121:",
        lines: &[
            "raftkvd --id 4 --tls certs/member-4 \\",
            "  --peer-url http://10.0.0.4:9021 --join http://10.0.0.1:9121",
        ],
    },
    Example {
        what: "Start a member again; its data directory knows the rest:",
        lines: &["raftkvd --id 4 --tls certs/member-4"],
    },
    Example {
        what: "Start one of three members on one machine, with a client port of its own:",
        lines: &[
            "raftkvd --id 2 --port 9122 --cluster \\",
            "  http://127.0.0.1:9021,http://127.0.0.1:9022,http://127.0.0.1:9023",
        ],
    },
    Example {
        what: "Serve clients on all addresses, log JSON, and limit the store to 2 GiB:",
        lines: &[
            "raftkvd --listen 0.0.0.0 --tls certs/member-1 --log-format json \\",
            "  --max-store-bytes 2G",
        ],
    },
    Example {
        what: "Back up all keys through any member:",
        lines: &["raftkvd backup --tls certs/admin http://10.0.0.1:9121 monday.snap"],
    },
];

/// The number of examples of the daemon in `-h`.
const SHORT_EXAMPLES: usize = 2;

const BACKUP: [Example; 4] = [
    Example {
        what: "Back up into the current directory; the file is named by cluster and index:",
        lines: &["raftkvd backup http://127.0.0.1:9121"],
    },
    Example {
        what: "Name the file:",
        lines: &["raftkvd backup http://127.0.0.1:9121 /backups/monday.snap"],
    },
    Example {
        what: "Show the certificate of a client to a member with TLS:",
        lines: &["raftkvd backup --tls certs/admin https://10.0.0.1:9121 monday.snap"],
    },
    Example {
        what: "Save what a single member has left, after most members are lost:",
        lines: &["raftkvd backup --stale http://127.0.0.1:9121 rest.snap"],
    },
];

const INSPECT: [Example; 2] = [
    Example {
        what: "Check a data directory, also while a member uses it:",
        lines: &["raftkvd inspect raftkvd-1"],
    },
    Example {
        what: "Check a backup:",
        lines: &["raftkvd inspect monday.snap"],
    },
];

const RESTORE: [Example; 2] = [
    Example {
        what: "Make a cluster of one from a backup, and start it:",
        lines: &[
            "raftkvd restore monday.snap --data-dir new-1 && \\",
            "  raftkvd --data-dir new-1",
        ],
    },
    Example {
        what: "Make the first of two members; then start both with the same --cluster:",
        lines: &[
            "raftkvd restore monday.snap --cluster \\",
            "  http://10.0.0.1:9021,http://10.0.0.2:9021",
        ],
    },
];

const CERT: [Example; 5] = [
    Example {
        what: "Make the certificates of three members:",
        lines: &[
            "raftkvd cert certs --cluster \\",
            "  http://10.0.0.1:9021,http://10.0.0.2:9021,http://10.0.0.3:9021",
        ],
    },
    Example {
        what: "Make the certificate of a fourth member:",
        lines: &["raftkvd cert member certs --id 4 --url http://10.0.0.4:9021"],
    },
    Example {
        what: "Make the certificate of a client:",
        lines: &["raftkvd cert client nightly-backup certs"],
    },
    Example {
        what: "Renew all certificates, for the same keys:",
        lines: &["raftkvd cert renew certs"],
    },
    Example {
        what: "See until when they are valid:",
        lines: &["raftkvd cert show certs"],
    },
];

const CERT_MEMBER: [Example; 2] = [
    Example {
        what: "Make the certificate of a fourth member:",
        lines: &["raftkvd cert member certs --id 4 --url http://10.0.0.4:9021"],
    },
    Example {
        what: "Make another key for member 3, which has lost its disk:",
        lines: &[
            "mv certs/member-3 certs/member-3.old && \\",
            "  raftkvd cert member certs --id 3 --url http://10.0.0.3:9021",
        ],
    },
];

const CERT_CLIENT: [Example; 1] = [Example {
    what: "Make the certificate of a client, in certs/nightly-backup:",
    lines: &["raftkvd cert client nightly-backup certs"],
}];

const CERT_RENEW: [Example; 2] = [
    Example {
        what: "Renew all certificates, for 90 days from now on:",
        lines: &["raftkvd cert renew certs"],
    },
    Example {
        what: "Renew the certificate of member 2 for a year:",
        lines: &["raftkvd cert renew certs --id 2 --days 365"],
    },
];

const CERT_ROTATE: [Example; 2] = [
    Example {
        what: "Make a new key for the CA; then copy each ca.pem:",
        lines: &["raftkvd cert rotate certs"],
    },
    Example {
        what: "After the renewal, trust the new CA alone; then copy each ca.pem:",
        lines: &["raftkvd cert rotate certs --finish"],
    },
];

const CERT_SHOW: [Example; 2] = [
    Example {
        what: "Show all certificates of a cluster:",
        lines: &["raftkvd cert show certs"],
    },
    Example {
        what: "Show one certificate:",
        lines: &["raftkvd cert show certs/member-3/member.pem"],
    },
];

const COMPLETIONS: [Example; 3] = [
    Example {
        what: "For bash:",
        lines: &[
            "raftkvd completions bash > \\",
            "  ~/.local/share/bash-completion/completions/raftkvd",
        ],
    },
    Example {
        what: "For zsh, in a directory of its fpath:",
        lines: &["raftkvd completions zsh > ~/.zfunc/_raftkvd"],
    },
    Example {
        what: "For fish:",
        lines: &["raftkvd completions fish > ~/.config/fish/completions/raftkvd.fish"],
    },
];

const MAN: [Example; 3] = [
    Example {
        what: "Read the manual page:",
        lines: &["raftkvd man | man -l -"],
    },
    Example {
        what: "Read the manual page of a subcommand:",
        lines: &["raftkvd man restore | man -l -"],
    },
    Example {
        what: "Install the manual page for all users:",
        lines: &["raftkvd man > /usr/local/share/man/man1/raftkvd.1"],
    },
];

/// The examples of a subcommand, such as `backup` or `cert member`, or of the daemon.
pub(super) fn examples(command: &str) -> &'static [Example] {
    match command {
        "backup" => &BACKUP,
        "inspect" => &INSPECT,
        "restore" => &RESTORE,
        "cert" => &CERT,
        "cert member" => &CERT_MEMBER,
        "cert client" => &CERT_CLIENT,
        "cert renew" => &CERT_RENEW,
        "cert rotate" => &CERT_ROTATE,
        "cert show" => &CERT_SHOW,
        "completions" => &COMPLETIONS,
        "man" => &MAN,
        _ => &DAEMON,
    }
}

/// The meaning of the value names that the help shows in angle brackets.
pub(super) const VALUES: [(&str, &str); 11] = [
    ("N", "a whole number, 1 or larger"),
    (
        "URL",
        "http://HOST:PORT; HOST is a name, an IPv4 or an [IPv6] address",
    ),
    ("URLS", "one or more URLs, separated by commas"),
    ("PORT", "a number from 1 to 65535"),
    ("IP", "an IPv4 or IPv6 address, such as 127.0.0.1 or ::1"),
    (
        "NAMES",
        "one or more host names, *.SUFFIX or *, separated by commas",
    ),
    ("HOST", "a host name or an IP address, without a port"),
    ("DIR", "the path of a directory"),
    ("FILE", "the path of a file"),
    (
        "SIZE",
        "bytes, or a number with K, M or G (powers of 1024): 64K, 1.5M",
    ),
    (
        "DURATION",
        "numbers with ms, s, m or h: 100ms, 5s, 1m30s; at most 24h",
    ),
];

/// Explains how options and environment variables relate.
pub(super) const VARIABLES: &str =
    "Each option can also be set by its environment variable; the option wins.";

/// What `--help` and the manual page say further of variables.
pub(super) const EMPTY_VARIABLES: &str = "An empty variable counts as one that is not set.";

/// The notes below the options in `-h`.
pub(super) fn short_notes() -> String {
    format!(
        "{}\n{VARIABLES}\nSee --help for all details, and raftkvd man for the manual page.",
        block(&DAEMON[..SHORT_EXAMPLES])
    )
}

/// The notes below the options in `--help`.
pub(super) fn long_notes() -> String {
    let mut text = block(&DAEMON);
    text.push_str("\nValues:\n");
    for (name, meaning) in VALUES {
        let _ = writeln!(text, "  {name:<8}  {meaning}");
    }
    let _ = write!(
        text,
        "\nEnvironment:\n  {VARIABLES}\n  {EMPTY_VARIABLES}\n\nExit codes:\n"
    );
    for code in ExitCode::ALL {
        let _ = writeln!(text, "  {code}  {}", code.summary());
    }
    text
}

/// The notes below the help of a subcommand.
pub(super) fn notes(command: &str) -> String {
    block(examples(command))
}

fn block(examples: &[Example]) -> String {
    let mut text = "Examples:\n".to_owned();
    for (at, example) in examples.iter().enumerate() {
        let gap = if at == 0 { "" } else { "\n" };
        let _ = writeln!(text, "{gap}  {}", example.what);
        for line in example.lines {
            let _ = writeln!(text, "    {line}");
        }
    }
    text
}
