//! The header fields that the gate looks at. One pass over the header finds them, because most requests have few
//! fields: that costs less than a look-up for each name.

use hyper::header::{HeaderMap, HeaderValue};

/// The fields of one request.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    pub(super) host: Field<'a>,
    pub(super) origin: Field<'a>,
    /// Some `Sec-Fetch-Site` names another site than the member's own.
    pub(super) other_site: bool,
    /// Every `Sec-Fetch-Mode` is `navigate`, and there is one.
    pub(super) navigates: bool,
    /// Every `Sec-Fetch-Dest` is `document`, and there is one.
    pub(super) is_document: bool,
    /// There is a `Content-Range`.
    pub(super) is_part: bool,
    /// `Transfer-Encoding` names something else than `chunked`, or names it twice.
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
        // Names are in lower case here, however the client has spelled them.
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
