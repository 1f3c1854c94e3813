//! The options of `raftkvd cert` and of its subcommands. The doc comment of each is its help text.

use super::super::values::{parse_days, parse_host, parse_id, parse_peer_url};
use crate::certificates::AltHost;
use crate::peer_url::PeerUrl;
use clap::{Subcommand, ValueHint};
use std::path::PathBuf;

/// How long a certificate is valid, in days, unless `--days` says otherwise.
const DAYS: &str = "90";

/// The options of `raftkvd cert`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(in crate::cli) struct CertArgs {
    #[command(subcommand)]
    pub(super) command: Option<CertCommand>,

    /// Directory to make
    #[arg(required = true, value_hint = ValueHint::DirPath)]
    pub(super) dir: Option<PathBuf>,

    /// Peer URLs of all members, in the order of their ids: the same list that the members take
    #[arg(long, value_name = "URLS", required = true, value_hint = ValueHint::Other)]
    pub(super) cluster: Option<String>,

    /// Days for which the certificates of members and clients are valid
    #[arg(long, value_name = "N", default_value = DAYS, value_parser = parse_days, value_hint = ValueHint::Other)]
    pub(super) days: u32,

    /// Further host by which clients reach the members; can be given more than once
    #[arg(long, value_name = "HOST", value_parser = parse_host, value_hint = ValueHint::Hostname)]
    pub(super) host: Vec<AltHost>,
}

/// What to do with a directory that `raftkvd cert` has made.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum CertCommand {
    /// Make a key and a certificate for one more member, or for one that lost its disk
    ///
    /// The directory member-<id> must not exist. For a member that has lost its disk or its key, first move the old directory
    /// away.
    Member {
        /// Directory of the CA [default: the current directory]
        #[arg(value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,

        /// Id of the member
        #[arg(long, value_name = "N", value_parser = parse_id, value_hint = ValueHint::Other)]
        id: u64,

        /// Peer URL of the member, so that clients can check its host
        #[arg(long, value_name = "URL", value_parser = parse_peer_url, value_hint = ValueHint::Other)]
        url: Option<PeerUrl>,

        /// Further host by which clients reach the member; can be given more than once
        #[arg(long, value_name = "HOST", value_parser = parse_host, value_hint = ValueHint::Hostname)]
        host: Vec<AltHost>,

        /// Days for which the certificate is valid
        #[arg(long, value_name = "N", default_value = DAYS, value_parser = parse_days, value_hint = ValueHint::Other)]
        days: u32,
    },

    /// Make a key and a certificate for one more client, which may do everything
    Client {
        /// Name of the client: 1 to 64 of the characters a-z 0-9 . _ -
        #[arg(value_hint = ValueHint::Other)]
        name: String,

        /// Directory of the CA [default: the current directory]
        #[arg(value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,

        /// Days for which the certificate is valid
        #[arg(long, value_name = "N", default_value = DAYS, value_parser = parse_days, value_hint = ValueHint::Other)]
        days: u32,
    },

    /// Renew the certificates of all members and clients, which keep their keys
    ///
    /// This needs the key of the CA only, so you can keep the key of each member on its machine alone.
    Renew {
        /// Directory of the CA [default: the current directory]
        #[arg(value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,

        /// Renew the certificate of this member only
        #[arg(long, value_name = "N", value_parser = parse_id, value_hint = ValueHint::Other)]
        id: Option<u64>,

        /// Days for which the certificates are valid
        #[arg(long, value_name = "N", default_value = DAYS, value_parser = parse_days, value_hint = ValueHint::Other)]
        days: u32,
    },

    /// Replace the key of the CA, in two steps
    ///
    /// The first step makes the new key. Every ca.pem then has the new and the old CA, so that certificates of both are
    /// trusted. Copy each ca.pem to its machine, run raftkvd cert renew, and copy the new certificates. The second step,
    /// with --finish, takes the old CA out of every ca.pem.
    Rotate {
        /// Directory of the CA [default: the current directory]
        #[arg(value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,

        /// Take the old CA out of every ca.pem
        #[arg(long)]
        finish: bool,
    },

    /// Show the owner of each certificate, the end of its validity, and the fingerprint of its key
    Show {
        /// Directory, or file with certificates [default: the current directory]
        #[arg(value_hint = ValueHint::AnyPath)]
        path: Option<PathBuf>,
    },
}
