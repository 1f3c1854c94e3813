//! The older text format of Prometheus (0.0.4), made of OpenMetrics text. Many scrapers read nothing else.
//!
//! The samples are the same. The formats differ in the lines about a family. In 0.0.4 a counter's family has the name
//! of its samples, there is no type `info`, and units and the end are not marked.

use std::fmt::Write as _;

/// The media type of the text.
pub const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Rewrites OpenMetrics text.
pub fn to_text_format(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    // The help of a family comes before its type, which decides the name of the family.
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "unknown"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "gauge" | "histogram" | "summary" => ("", kind),
                "stateset" => ("", "gauge"),
                _ => ("", "untyped"),
            };
            // Writing to a string can't fail.
            if let Some((_, help)) = help.take().filter(|(of, _)| *of == name) {
                let _ = writeln!(text, "# HELP {name}{suffix} {help}");
            }
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') && !line.is_empty() {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_named_and_typed_as_scrapers_of_the_older_format_expect() {
        let open_metrics = "# HELP a_bytes Bytes.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\na_bytes_total 7\n\
             # HELP b Build.\n# TYPE b info\nb_info{version=\"1\"} 1\n# TYPE c gauge\nc{x=\"# EOF\"} 2\n\
             # HELP d Times.\n# TYPE d histogram\nd_sum 0.5\nd_count 1\nd_bucket{le=\"+Inf\"} 1\n\
             # TYPE e unknown\ne 3\n# EOF\n";
        assert_eq!(
            to_text_format(open_metrics),
            "# HELP a_bytes_total Bytes.\n# TYPE a_bytes_total counter\na_bytes_total 7\n\
             # HELP b_info Build.\n# TYPE b_info gauge\nb_info{version=\"1\"} 1\n# TYPE c gauge\nc{x=\"# EOF\"} 2\n\
             # HELP d Times.\n# TYPE d histogram\nd_sum 0.5\nd_count 1\nd_bucket{le=\"+Inf\"} 1\n\
             # TYPE e untyped\ne 3\n"
        );
    }
}
