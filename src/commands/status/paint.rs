//! Text for a terminal: pieces in colours, lines that are cut or wrapped to its width.

/// How a picture is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Whether with colours.
    pub color: bool,
    /// Columns: what is longer is wrapped, or cut with an ellipsis.
    pub width: usize,
    /// Rows: where they do not do, details are left out.
    pub height: usize,
}

/// What a piece of text is to the eye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    Plain,
    Bold,
    Dim,
    Good,
    Busy,
    Bad,
}

impl Paint {
    pub fn code(self) -> &'static str {
        match self {
            Paint::Plain => "",
            Paint::Bold => "\x1b[1m",
            Paint::Dim => "\x1b[2m",
            Paint::Good => "\x1b[1;32m",
            Paint::Busy => "\x1b[1;33m",
            Paint::Bad => "\x1b[1;31m",
        }
    }
}

/// What stands where something is cut.
const ELLIPSIS: &str = "...";

/// The lines that a line is wrapped to begin with this, the first apart.
const INDENT: &str = "  ";

/// A line of a picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line(Vec<(Paint, String)>);

impl Line {
    /// A line of one piece.
    pub fn new(paint: Paint, text: impl Into<String>) -> Line {
        Line(vec![(paint, text.into())])
    }

    /// This line with one more piece.
    #[must_use]
    pub fn and(mut self, paint: Paint, text: impl Into<String>) -> Line {
        self.push(paint, text);
        self
    }

    /// Adds a piece.
    pub fn push(&mut self, paint: Paint, text: impl Into<String>) {
        self.0.push((paint, text.into()));
    }

    /// How many columns it needs.
    pub fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| text.chars().count()).sum()
    }

    /// The text alone.
    pub fn text(&self) -> String {
        self.0.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// This line in `width` columns, with an ellipsis where it is cut.
    #[must_use]
    pub fn cut(self, width: usize) -> Line {
        if self.width() <= width {
            return self;
        }
        let dots: String = ELLIPSIS.chars().take(width).collect();
        let mut cut = self.first(width - dots.len());
        let paint = cut.0.last().map_or(Paint::Plain, |(paint, _)| *paint);
        cut.push(paint, dots);
        cut
    }

    /// The first so many columns.
    fn first(mut self, mut width: usize) -> Line {
        for (_, text) in &mut self.0 {
            let end = text
                .char_indices()
                .nth(width)
                .map_or(text.len(), |(at, _)| at);
            text.truncate(end);
            width -= text.chars().count();
        }
        self
    }

    /// This line as lines of `width` columns, broken between words. At the most so many lines:
    /// where there would be more, those in the middle are left out, since the cause of an error
    /// stands at its end.
    pub fn wrap(self, width: usize, most: usize) -> Vec<Line> {
        if self.width() <= width {
            return vec![self];
        }
        let mut lines = Vec::new();
        let (mut line, mut used, mut fresh) = (Line::default(), 0, true);
        for (paint, text) in self.0 {
            for word in text.split_inclusive(' ') {
                let length = word.trim_end().chars().count();
                if used + length > width && !fresh {
                    lines.push(std::mem::take(&mut line));
                    line.push(Paint::Plain, INDENT);
                    used = INDENT.len();
                }
                line.push(paint, word);
                used += word.chars().count();
                fresh = false;
            }
        }
        lines.push(line);
        if lines.len() > most {
            let tail = most / 2;
            let rest = lines.split_off(lines.len() - tail);
            lines.truncate(most - tail);
            if let Some(last) = lines.last_mut() {
                let room = width.saturating_sub(ELLIPSIS.len() + 1);
                *last = std::mem::take(last).end().first(room);
                last.push(Paint::Plain, format!(" {ELLIPSIS}"));
            }
            lines.extend(rest);
        }
        lines
            .into_iter()
            .map(|line| line.end().cut(width))
            .collect()
    }

    /// This line without white space at its end.
    pub fn end(mut self) -> Line {
        while let Some((_, text)) = self.0.last_mut() {
            text.truncate(text.trim_end().len());
            if !text.is_empty() {
                break;
            }
            self.0.pop();
        }
        self
    }

    /// The line as it goes to the terminal, with its end.
    pub fn draw(self, style: Style) -> String {
        let mut drawn = String::new();
        for (paint, text) in self.end().cut(style.width).0 {
            if style.color && paint != Paint::Plain && !text.is_empty() {
                drawn.push_str(paint.code());
                drawn.push_str(&text);
                drawn.push_str("\x1b[0m");
            } else {
                drawn.push_str(&text);
            }
        }
        drawn.push('\n');
        drawn
    }
}

/// A text in `width` columns, with an ellipsis where it is cut.
pub fn short(text: &str, width: usize) -> String {
    Line::new(Paint::Plain, text).cut(width).text()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(text: &str, width: usize, most: usize) -> Vec<String> {
        let line = Line::new(Paint::Bad, text);
        line.wrap(width, most).iter().map(Line::text).collect()
    }

    #[test]
    fn what_is_cut_ends_with_an_ellipsis() {
        let cut: Vec<_> = [0, 2, 3, 5, 6, 9]
            .map(|width| short("sextet", width))
            .into();
        assert_eq!(cut, ["", "..", "...", "se...", "sextet", "sextet"]);
        let line = Line::new(Paint::Bold, "ab").and(Paint::Bad, "cdef");
        assert_eq!(line.clone().cut(5).text(), "ab...");
        assert_eq!(line.cut(6).text(), "abcdef");
    }

    #[test]
    fn a_long_line_is_broken_between_words_and_cut_in_the_middle() {
        let text = "the key does not fit the certificate";
        assert_eq!(
            wrapped(text, 16, 9),
            ["the key does not", "  fit the", "  certificate"]
        );
        assert_eq!(wrapped(text, 16, 2), ["the key does ...", "  certificate"]);
        assert_eq!(wrapped(text, 99, 1), [text]);
        assert_eq!(wrapped("a 0123456789 b", 6, 9), ["a", "  0...", "  b"]);
        for width in 0..20 {
            let lines = wrapped(text, width, 4);
            assert!(lines.iter().all(|line| line.len() <= width), "{lines:?}");
        }
    }

    #[test]
    fn colours_are_for_those_who_want_them() {
        let line = Line::new(Paint::Bad, "cut").and(Paint::Plain, ": 1 ");
        let style = |color| Style {
            color,
            width: 80,
            height: 24,
        };
        assert_eq!(line.clone().draw(style(false)), "cut: 1\n");
        assert_eq!(line.draw(style(true)), "\x1b[1;31mcut\x1b[0m: 1\n");
    }
}
