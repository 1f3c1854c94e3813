//! The hosts by which clients may name this member.
//!
//! A browser trusts a page by the host in its URL. The owner of a domain can make the domain resolve to the address of
//! a member. For the browser, a page of this domain then belongs to the member, and only the Host of its requests shows
//! the domain. So a member serves only names by which it is known, and addresses, which no name service can redirect.

use super::authority::Host;
use crate::channels::member_hosts::MemberHosts;
use crate::config::AllowedHost;
use std::sync::Arc;

/// The hosts by which clients may name this member.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    /// The hosts of `--allow-host`.
    allowed: Vec<AllowedHost>,
    /// The name of this machine, and its part before the first dot.
    machine: Vec<String>,
    /// The hosts of the members.
    members: Arc<MemberHosts>,
}

impl Hosts {
    /// The hosts of `--allow-host`, of this machine and of the members. The name of the machine is read once.
    pub fn new(allowed: Vec<AllowedHost>, members: Arc<MemberHosts>) -> Hosts {
        let name = rustix::system::uname();
        let name = name.nodename().to_string_lossy();
        let short = name.split('.').next().unwrap_or_default();
        let machine = [&*name, short].into_iter().filter(|name| !name.is_empty());
        Hosts {
            allowed,
            machine: machine.map(str::to_owned).collect(),
            members,
        }
    }

    /// Whether clients may name this member by this host.
    pub(super) fn allow(&self, host: Host<'_>) -> bool {
        let Host::Name(name) = host else {
            return true;
        };
        name.eq_ignore_ascii_case("localhost")
            || self.allowed.iter().any(|allowed| allows(allowed, name))
            || self
                .machine
                .iter()
                .any(|own| own.eq_ignore_ascii_case(name))
            || self.members.contains(name)
    }
}

fn allows(allowed: &AllowedHost, name: &str) -> bool {
    match allowed {
        AllowedHost::Any => true,
        AllowedHost::Name(allowed) => allowed.eq_ignore_ascii_case(name),
        AllowedHost::Below(suffix) => {
            let start = name.len().checked_sub(suffix.len() + 1);
            let end = start.and_then(|start| name.get(start..));
            let end = end.and_then(|end| end.strip_prefix('.'));
            // There is at least one byte before the dot, because no label is empty.
            end.is_some_and(|end| end.eq_ignore_ascii_case(suffix))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer_url::PeerUrl;

    #[test]
    fn known_names_and_all_addresses_are_allowed() {
        let url: PeerUrl = "http://Node-1.Example.:9021".parse().unwrap();
        let members = Arc::new(MemberHosts::new([&url].into_iter()));
        let allowed = vec![
            AllowedHost::Name("kv.example".into()),
            AllowedHost::Below("apps.example".into()),
        ];
        let mut hosts = Hosts::new(allowed, members);
        hosts.machine = vec!["box.lan".into(), "box".into()];
        for name in [
            "localhost",
            "LOCALHOST",
            "kv.example",
            "a.apps.example",
            "a.b.Apps.example",
            "node-1.example",
            "box",
            "BOX.lan",
        ] {
            assert!(hosts.allow(Host::Name(name)), "{name}");
        }
        for name in [
            "evil.example",
            "apps.example",
            "xapps.example",
            "kv.example.evil",
            "a.kv.example",
            "a.localhost",
            "localhost.evil",
            "box.evil",
        ] {
            assert!(!hosts.allow(Host::Name(name)), "{name}");
        }
        assert!(hosts.allow(Host::Address("203.0.113.1".parse().unwrap())));
        hosts.allowed.push(AllowedHost::Any);
        assert!(hosts.allow(Host::Name("evil.example")));
    }
}
