//! The header fields that the gate looks at. One pass over the header finds them. Most requests have few fields, so one
//! pass costs less than a look-up for each name.

use hyper::header::{HeaderMap, HeaderValue};

/// The fields of one request.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    pub(super) host: Field<'a>,
    pub(super) origin: Field<'a>,
    /// At least one `Sec-Fetch-Site` names another site than the member's own.
    pub(super) other_site: bool,
    /// There is a `Sec-Fetch-Mode`, and each of them is `navigate`.
    pub(super) navigates: bool,
    /// There is a `Sec-Fetch-Dest`, and each of them is `document`.
    pub(super) is_document: bool,
    /// There is a `Content-Range`.
    pub(super) is_part: bool,
    /// `Transfer-Encoding` names a coding other than `chunked`, or names `chunked` twice.
    pub(super) is_coded: bool,
}

/// A field that may appear once.
#[derive(Debug, Default, Clone, Copy)]
pub(super) enum Field<'a> {
    #[default]
    Missing,
    Once(&'a HeaderValue),
    Repeated,
}

impl<'a> Field<'a> {
    fn add(&mut self, value: &'a HeaderValue) {
        *self = match self {
            Field::Missing => Field::Once(value),
            Field::Once(_) | Field::Repeated => Field::Repeated,
        };
    }
}

impl<'a> Fields<'a> {
    pub(super) fn of(headers: &'a HeaderMap) -> Fields<'a> {
        let mut fields = Fields::default();
        let (mut modes, mut destinations) = (None, None);
        let mut codings = 0;
        // hyper has changed all names to lower case.
        for (name, value) in headers {
            match name.as_str() {
                "host" => fields.host.add(value),
                "origin" => fields.origin.add(value),
                "sec-fetch-site" => {
                    fields.other_site |= value != "same-origin" && value != "none";
                }
                "sec-fetch-mode" => modes = Some(modes.unwrap_or(true) && value == "navigate"),
                "sec-fetch-dest" => {
                    destinations = Some(destinations.unwrap_or(true) && value == "document");
                }
                "content-range" => fields.is_part = true,
                "transfer-encoding" => {
                    codings += 1;
                    let is_chunked = value.as_bytes().eq_ignore_ascii_case(b"chunked");
                    fields.is_coded |= codings > 1 || !is_chunked;
                }
                _ => {}
            }
        }
        fields.navigates = modes.unwrap_or(false);
        fields.is_document = destinations.unwrap_or(false);
        fields
    }
}
