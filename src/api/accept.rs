//! The header `Accept`: whether a client asks for a form of an answer by the name of its media type. `*/*` asks for no
//! form in particular.

use hyper::header::{ACCEPT, HeaderMap};

/// The highest weight (`q`) that the header gives to one of these media types, by default 1. `None`: the header names
/// none of them.
pub(super) fn weight(request: &HeaderMap, names: &[&str]) -> Option<f32> {
    let fields = request.get_all(ACCEPT).iter();
    let ranges = fields
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(','));
    let weights = ranges.filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        names
            .iter()
            .find(|known| known.eq_ignore_ascii_case(name))?;
        let weight = parts.find_map(|parameter| {
            let (q, weight) = parameter.split_once('=')?;
            q.trim().eq_ignore_ascii_case("q").then_some(weight)
        });
        Some(weight.map_or(1.0, |weight| weight.trim().parse().unwrap_or(1.0)))
    });
    weights.reduce(f32::max)
}

/// Whether the client asks for one of these media types.
pub(super) fn is_wanted(request: &HeaderMap, names: &[&str]) -> bool {
    weight(request, names).is_some_and(|weight| weight > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn a_form_has_to_be_asked_for_by_name() {
        let weight = |fields: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(ACCEPT, HeaderValue::from_static(field));
            }
            weight(&headers, &["application/json", "application/problem+json"])
        };
        for (fields, expected) in [
            (&["application/json"][..], Some(1.0)),
            (&["text/html, Application/JSON;q=0.5"], Some(0.5)),
            (
                &["text/plain", "application/problem+json; charset=utf-8"],
                Some(1.0),
            ),
            (
                &["application/json;q=0.2, application/problem+json; Q = 0.7"],
                Some(0.7),
            ),
            (&["*/*, application/json"], Some(1.0)),
            (&["application/json;q=0"], Some(0.0)),
            (&["application/json ; q=0.000, text/plain"], Some(0.0)),
            (&[], None),
            (&["*/*"], None),
            (&["application/*"], None),
            (&["application/jsonx"], None),
            (&["text/plain;v=application/json"], None),
        ] {
            assert_eq!(weight(fields), expected, "{fields:?}");
        }
    }
}
