//! Server-sent events from bytes that may be cut anywhere (WHATWG HTML, "Parsing an event stream").
//!
//! Only `data` is kept: the servers that are measured put everything there.

/// Longest event, in bytes.
const LONGEST: usize = 16 << 20;

/// An event is longer than 16 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLong;

/// A parser that is given the bytes as they come.
#[derive(Debug, Default)]
pub(super) struct EventStream {
    line: Vec<u8>,
    /// `data` lines of the event under way, each with a line feed behind it.
    data: Vec<u8>,
    /// The last byte was a carriage return: a line feed belongs to it.
    after_return: bool,
    /// The first line, which may begin with a byte order mark, is over.
    past_first: bool,
}

impl EventStream {
    /// The data of the events that `bytes` complete. What is not UTF-8 becomes U+FFFD.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<String>, TooLong> {
        let mut events = Vec::new();
        let mut rest = bytes;
        if !rest.is_empty() && std::mem::take(&mut self.after_return) && rest[0] == b'\n' {
            rest = &rest[1..];
        }
        while let Some(end) = rest.iter().position(|b| matches!(b, b'\r' | b'\n')) {
            self.line.extend_from_slice(&rest[..end]);
            events.extend(self.end_of_line());
            let pair = rest[end] == b'\r' && rest.get(end + 1) == Some(&b'\n');
            self.after_return = rest[end] == b'\r' && end + 1 == rest.len();
            rest = &rest[end + 1 + usize::from(pair)..];
        }
        self.line.extend_from_slice(rest);
        if self.line.len() + self.data.len() > LONGEST { Err(TooLong) } else { Ok(events) }
    }

    /// Takes the line in; the event, when the line ends one.
    fn end_of_line(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        let first = !std::mem::replace(&mut self.past_first, true);
        let line = line.strip_prefix(b"\xef\xbb\xbf").filter(|_| first).unwrap_or(&line);
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            return data.split_last().map(|(_, data)| String::from_utf8_lossy(data).into_owned());
        }
        let (field, value) = match line.iter().position(|b| *b == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &line[line.len()..]),
        };
        if field == b"data" {
            self.data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
            self.data.push(b'\n');
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<String> {
        let mut stream = EventStream::default();
        pieces.iter().flat_map(|piece| stream.feed(piece).unwrap()).collect()
    }

    /// The whole text at once, by its lines.
    fn reference(text: &str) -> Vec<String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
        let (mut events, mut data) = (Vec::new(), Vec::<String>::new());
        // Behind the last line feed stands a line that has not ended.
        let lines: Vec<&str> = text.split('\n').collect();
        for line in &lines[..lines.len() - 1] {
            match line.split_once(':').unwrap_or((line, "")) {
                ("", "") if line.is_empty() && !data.is_empty() => events.push(std::mem::take(&mut data).join("\n")),
                ("data", value) => data.push(value.strip_prefix(' ').unwrap_or(value).to_string()),
                _ => {}
            }
        }
        events
    }

    #[test]
    fn events_are_read_as_they_are_defined() {
        let text = "\u{feff}: a comment\r\ndata: {\"a\": 1}\r\n\r\nevent: x\ndata:two\ndata:  lines\n\nid: 3\n\ndata\r\rdata: [DONE]\n\ndata: lost";
        let expected = ["{\"a\": 1}", "two\n lines", "", "[DONE]"];
        assert_eq!(events(&[text.as_bytes()]), expected);
        assert_eq!(reference(text), expected);
        assert_eq!(events(&[b"data: \xff\n\n"]), ["\u{fffd}"]);
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut stream = EventStream::default();
        let piece = vec![b'x'; 1 << 20];
        let refused = (0..17).map(|_| stream.feed(&piece)).position(|fed| fed == Err(TooLong));
        assert_eq!(refused, Some(16));
    }

    fn text() -> impl Strategy<Value = String> {
        let part = prop::sample::select(vec![
            "\n",
            "\r",
            "\r\n",
            "\n\n",
            "\r\r",
            "data",
            "data:",
            "data: ",
            ":",
            " ",
            "id: 1",
            "event",
            "[DONE]",
            "é",
            "漢",
            "🙂",
            "{\"x\":1}",
            "\u{feff}",
        ]);
        prop::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn any_cutting_gives_the_same_events(text in text(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
            let bytes = text.as_bytes();
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
            places.sort_unstable();
            let pieces: Vec<&[u8]> = places.windows(2).map(|p| &bytes[p[0]..p[1]]).collect();
            let expected = reference(&text);
            prop_assert_eq!(&events(&pieces), &expected);
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(&events(&single), &expected);
        }
    }
}
