//! Lists of members, id and peer URL, as commands and snapshots carry them.

use crate::command::Listed;
use crate::peer_url::PeerUrl;
use protobuf::RepeatedField;
use std::collections::BTreeMap;

/// A list of members, as commands and snapshots carry it.
pub fn to_listed<'a>(
    list: impl IntoIterator<Item = (&'a u64, &'a PeerUrl)>,
) -> RepeatedField<Listed> {
    let listed = list.into_iter().map(|(id, url)| {
        let mut out = Listed::new();
        out.id = *id;
        out.url = url.to_string();
        out
    });
    listed.collect()
}

/// The places of a list, in its order. A URL that does not parse is an error, with its text.
pub(super) fn places(listed: &[Listed]) -> Result<Vec<(u64, PeerUrl)>, String> {
    let place = |listed: &Listed| Ok((listed.id, listed.url.parse()?));
    listed.iter().map(place).collect()
}

/// The same by id.
pub(super) fn listed(listed: &[Listed]) -> Result<BTreeMap<u64, PeerUrl>, String> {
    Ok(places(listed)?.into_iter().collect())
}
