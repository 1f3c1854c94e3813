//! Limits floods: lines that repeat are held back, counted, and reported once a window.
//!
//! Two lines are of the same kind when they come from the same place in the code, at the same level, and about the same
//! member or error code. Their other values don't count. For refusals in the audit, the values that count are
//! instead `audit`, the code and the source address without its port. The first [`limits::LOG_REPEATS_MAX`] lines of a
//! window pass. Further lines are counted. When the window ends, the last of them is logged with their number. While
//! the flood continues, the following windows let only that one line pass. After a window without repeats, the first
//! lines pass again.
//!
//! Invariants:
//! - The first lines of a kind pass, as long as there is room to remember the kind.
//! - At most [`limits::LOG_REPEATS_TRACKED`] kinds are remembered, with one line each, and one more for each place in
//!   the code. Errors of further kinds always pass. All other lines of further kinds share the window of their place.
//!   So clients with many addresses can't take the room of lines from another place.

use super::tags::{ALWAYS, AUDIT, AUDIT_AGAIN, PROGRESS, PROGRESS_END};
use crate::limits;
use slog::{Key, Level, OwnedKVList, Record, Serializer};
use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hasher as _};
use std::time::{Duration, Instant};

/// The names of the values that distinguish lines from one place in the code.
const TELLING: &[&str] = &["member", "code"];
/// The same for lines of the audit.
const TELLING_AUDIT: &[&str] = &["audit", "code", "from"];

/// The kind of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    level: usize,
    file: &'static str,
    line: u32,
    /// A hash of the [`TELLING`] values, or of the [`TELLING_AUDIT`] values for a line of the audit.
    values: u64,
}

impl Kind {
    /// The kind of a line, or `None` for lines that are never held back. These are debug and trace lines, because a
    /// user who sets such a level wants every line. They are also lines for every level, progress, and audit lines
    /// about requests that succeeded and did not ask for a state that held already.
    pub(super) fn of(record: &Record<'_>, values: &OwnedKVList) -> Option<Kind> {
        let is_done = record.tag() == AUDIT && record.level() == Level::Info;
        let is_any = [ALWAYS, PROGRESS, PROGRESS_END].contains(&record.tag());
        if is_done || is_any || !record.level().is_at_least(Level::Info) {
            return None;
        }
        let mut telling = Telling {
            keys: match record.tag() {
                AUDIT | AUDIT_AGAIN => TELLING_AUDIT,
                _ => TELLING,
            },
            hasher: DefaultHasher::new(),
        };
        // Hashing can't fail.
        let _ = slog::KV::serialize(&record.kv(), record, &mut telling);
        let _ = slog::KV::serialize(values, record, &mut telling);
        Some(Kind {
            level: record.level().as_usize(),
            file: record.location().file,
            line: record.location().line,
            values: telling.hasher.finish(),
        })
    }

    /// The kind that lines of one place in the code share when there is no room for their own kinds.
    fn of_place(self) -> Kind {
        Kind { values: 0, ..self }
    }

    fn is_error(self) -> bool {
        self.level <= Level::Error.as_usize()
    }
}

struct Telling {
    keys: &'static [&'static str],
    hasher: DefaultHasher,
}

impl Serializer for Telling {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        if self.keys.contains(&key) {
            let value = value.to_string();
            // A stranger can easily change its port, but not its address.
            let value = match key {
                "from" => value
                    .rsplit_once(':')
                    .map_or(&*value, |(address, _)| address),
                _ => &value,
            };
            self.hasher.write(format!("{key}={value};").as_bytes());
        }
        Ok(())
    }
}

/// The windows of all kinds.
pub(super) struct Repeats<T> {
    windows: HashMap<Kind, Window<T>>,
}

struct Window<T> {
    begun: Instant,
    passed: u64,
    held: u64,
    last: Option<T>,
}

/// The lines that a window held back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HeldLines<T> {
    /// The last line.
    pub line: T,
    /// The number of lines.
    pub count: u64,
    /// The time in which they came.
    pub within: Duration,
}

impl<T> Default for Repeats<T> {
    fn default() -> Repeats<T> {
        Repeats {
            windows: HashMap::new(),
        }
    }
}

impl<T> Repeats<T> {
    /// Returns the line if it passes.
    pub(super) fn admit(&mut self, mut kind: Kind, line: T, now: Instant) -> Option<T> {
        if self.windows.len() >= limits::LOG_REPEATS_TRACKED && !self.windows.contains_key(&kind) {
            if kind.is_error() {
                return Some(line);
            }
            kind = kind.of_place();
        }
        let window = self.windows.entry(kind).or_insert_with(|| Window::new(now));
        if window.is_over(now) && window.held == 0 {
            *window = Window::new(now);
        }
        if window.passed < limits::LOG_REPEATS_MAX {
            window.passed += 1;
            return Some(line);
        }
        // The line is counted even if the window is over, because the count of that window is about to be logged.
        window.held += 1;
        window.last = Some(line);
        None
    }

    /// When [`Repeats::ended`] must be called next.
    pub(super) fn next_end(&self) -> Option<Instant> {
        let ends = self.windows.values().map(Window::end);
        ends.min()
    }

    /// The lines that were held back by windows that are over.
    pub(super) fn ended(&mut self, now: Instant) -> Vec<HeldLines<T>> {
        self.take(now, |window| window.is_over(now))
    }

    /// All lines that were held back until now.
    pub(super) fn all(&mut self, now: Instant) -> Vec<HeldLines<T>> {
        self.take(now, |_| true)
    }

    fn take(&mut self, now: Instant, which: impl Fn(&Window<T>) -> bool) -> Vec<HeldLines<T>> {
        let mut held = Vec::new();
        self.windows.retain(|_, window| {
            if !which(window) {
                return true;
            }
            let Some(line) = window.last.take() else {
                return false;
            };
            held.push(HeldLines {
                line,
                count: std::mem::take(&mut window.held),
                within: now.saturating_duration_since(window.begun),
            });
            // The flood continues, so the next window starts without lines that may pass.
            window.begun = now;
            true
        });
        held
    }
}

impl<T> Window<T> {
    fn new(begun: Instant) -> Window<T> {
        Window {
            begun,
            passed: 0,
            held: 0,
            last: None,
        }
    }

    fn end(&self) -> Instant {
        self.begun + limits::LOG_REPEAT_WINDOW
    }

    fn is_over(&self, now: Instant) -> bool {
        now >= self.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slog::RecordStatic;

    const WINDOW: Duration = limits::LOG_REPEAT_WINDOW;
    const MAX: u64 = limits::LOG_REPEATS_MAX;

    fn kind(level: Level, line: u32) -> Kind {
        Kind {
            level: level.as_usize(),
            file: "here.rs",
            line,
            values: 0,
        }
    }

    /// How many of these lines pass.
    fn passed(repeats: &mut Repeats<u64>, kind: Kind, lines: u64, now: Instant) -> u64 {
        (0..lines)
            .filter(|line| repeats.admit(kind, *line, now).is_some())
            .count() as u64
    }

    #[test]
    fn refusals_of_the_audit_are_told_apart_by_address_and_what_was_done_is_never_held_back() {
        fn kind(level: Level, from: &str, peer: u64) -> Option<Kind> {
            tagged(AUDIT, level, from, peer)
        }
        fn tagged(tag: &'static str, level: Level, from: &str, peer: u64) -> Option<Kind> {
            let at = RecordStatic {
                location: &slog::RecordLocation {
                    file: "here.rs",
                    line: 1,
                    column: 1,
                    function: "",
                    module: "",
                },
                tag,
                level,
            };
            let values = slog::b!("audit" => "peer", "member" => peer);
            let from = slog::o!("from" => from.to_owned()).into();
            Kind::of(&Record::new(&at, &format_args!("refused"), values), &from)
        }
        let refused = |from, peer| kind(Level::Warning, from, peer);
        assert!(refused("10.0.0.1:5", 2).is_some());
        assert_eq!(refused("10.0.0.1:5", 2), refused("10.0.0.1:6", 3));
        assert_ne!(refused("10.0.0.1:5", 2), refused("10.0.0.2:5", 2));
        assert_eq!(refused("[::1]:5", 2), refused("[::1]:6", 2));
        assert_ne!(refused("[::1]:5", 2), refused("[::2]:5", 2));
        assert_eq!(kind(Level::Info, "10.0.0.1:5", 2), None);
        assert!(tagged(AUDIT_AGAIN, Level::Info, "10.0.0.1:5", 2).is_some());
    }

    #[test]
    fn the_first_lines_pass_and_the_others_are_counted() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        let warning = kind(Level::Warning, 1);
        assert_eq!(repeats.next_end(), None);
        assert_eq!(passed(&mut repeats, warning, MAX + 57, now), MAX);
        assert_eq!(repeats.next_end(), Some(now + WINDOW));
        // A line of another kind is not affected.
        assert_eq!(passed(&mut repeats, kind(Level::Warning, 2), 1, now), 1);
        assert_eq!(repeats.ended(now + WINDOW / 2), []);
        let told = HeldLines {
            line: MAX + 56,
            count: 57,
            within: WINDOW,
        };
        assert_eq!(repeats.ended(now + WINDOW), [told]);
    }

    #[test]
    fn a_flood_is_one_line_a_window_and_its_end_lets_lines_pass_again() {
        let (mut repeats, begun) = (Repeats::default(), Instant::now());
        let warning = kind(Level::Warning, 1);
        passed(&mut repeats, warning, MAX + 1, begun);
        for window in 1..5 {
            let now = begun + window * WINDOW;
            // Lines are held back before and after the count of the previous window is logged.
            assert_eq!(passed(&mut repeats, warning, 3, now), 0);
            let told = repeats.ended(now);
            assert_eq!(told.len(), 1);
            assert_eq!(told[0].count, if window == 1 { 4 } else { 5 });
            assert_eq!(passed(&mut repeats, warning, 2, now), 0);
        }
        assert_eq!(repeats.ended(begun + 5 * WINDOW).len(), 1);
        assert_eq!(repeats.ended(begun + 6 * WINDOW), []);
        assert_eq!(repeats.next_end(), None);
        let later = begun + 6 * WINDOW;
        assert_eq!(passed(&mut repeats, warning, MAX, later), MAX);
    }

    #[test]
    fn the_rest_is_told_at_the_end() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        passed(&mut repeats, kind(Level::Info, 1), MAX + 2, now);
        passed(&mut repeats, kind(Level::Info, 2), MAX, now);
        let told = repeats.all(now + Duration::from_secs(1));
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].count, told[0].within.as_secs()), (2, 1));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_another_place_and_errors_pass_all_the_same() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        let of = |level, line, values| Kind {
            values,
            ..kind(level, line)
        };
        let mut through = 0;
        for address in 1..=10_000 {
            through += passed(&mut repeats, of(Level::Warning, 1, address), 1, now);
        }
        assert_eq!(through, limits::LOG_REPEATS_TRACKED as u64 + MAX);
        assert_eq!(repeats.windows.len(), limits::LOG_REPEATS_TRACKED + 1);
        for line in 2..12 {
            let through = passed(&mut repeats, of(Level::Warning, line, 7), 2 * MAX, now);
            assert_eq!(through, MAX);
        }
        assert_eq!(repeats.windows.len(), limits::LOG_REPEATS_TRACKED + 11);
        for address in 0..100 {
            let error = of(Level::Error, 20, address);
            assert_eq!(passed(&mut repeats, error, 1, now), 1);
        }
        assert_eq!(repeats.windows.len(), limits::LOG_REPEATS_TRACKED + 11);
    }
}
