//! Lists of members (id and peer URL), as commands and snapshots carry them.

use crate::command::Listed;
use crate::peer_url::PeerUrl;
use protobuf::RepeatedField;
use std::collections::BTreeMap;

/// Encodes a list of members for a command or a snapshot.
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

/// Decodes a list in its order. A URL that does not parse is an error, whose text names it.
pub(super) fn places(listed: &[Listed]) -> Result<Vec<(u64, PeerUrl)>, String> {
    let place = |listed: &Listed| Ok((listed.id, listed.url.parse()?));
    listed.iter().map(place).collect()
}

/// Decodes a list into a map by id.
pub(super) fn listed(listed: &[Listed]) -> Result<BTreeMap<u64, PeerUrl>, String> {
    Ok(places(listed)?.into_iter().collect())
}
