//! A client of HTTP/1.1 that sends what it is told, byte by byte, and can go away in the middle of an answer.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// How long an answer may keep silent.
const PATIENCE: Duration = Duration::from_secs(120);

/// Asks one server, over one connection as long as that is kept.
pub(super) struct Client {
    address: SocketAddr,
    key: Option<String>,
    kept: Option<BufReader<TcpStream>>,
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

/// An event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event {
    Data(Value),
    Done,
}

/// The events of a stream as they come. Dropped before the end, the connection is closed.
pub(super) struct Stream {
    pub(super) status: u16,
    lines: BufReader<Body>,
}

/// A body as its head says where it ends.
struct Body {
    from: BufReader<TcpStream>,
    left: Left,
}

enum Left {
    Bytes(usize),
    /// Of the chunk that is being read; whether there was one before.
    Chunk(usize, bool),
}

type Headers = Vec<(String, String)>;

/// The first of the headers of this name.
fn header<'h>(headers: &'h Headers, name: &str) -> Option<&'h str> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

impl Client {
    pub(super) fn new(address: SocketAddr) -> Client {
        Client { address, key: None, kept: None }
    }

    pub(super) fn with_key(self, key: &str) -> Client {
        Client { key: Some(key.into()), ..self }
    }

    pub(super) fn get(&mut self, path: &str) -> Reply {
        self.send("GET", path, &[], b"").unwrap()
    }

    pub(super) fn post(&mut self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, &[], body.to_string().as_bytes()).unwrap()
    }

    /// The answer to a request; `headers` replace those that this client would send.
    pub(super) fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Reply> {
        let request = self.request(method, path, headers, body);
        if let Some(kept) = self.kept.take()
            && let Ok(reply) = self.over(kept, &request)
        {
            return Ok(reply);
        }
        // Only a connection that was kept may have been closed by the server meanwhile.
        let fresh = connect(self.address)?;
        self.over(fresh, &request)
    }

    fn over(&mut self, mut connection: BufReader<TcpStream>, request: &[u8]) -> Result<Reply> {
        // A server may answer and close before it has read everything: the answer counts.
        let written = connection.get_mut().write_all(request);
        let (status, headers) = head(&mut connection).or_else(|e| written.and(Err(e)))?;
        let mut body = Body::of(connection, status, &headers)?;
        let mut bytes = Vec::new();
        body.read_to_end(&mut bytes)?;
        if header(&headers, "connection").is_none_or(|said| said != "close") {
            self.kept = Some(body.from);
        }
        Ok(Reply { status, headers, body: bytes })
    }

    /// The events of the answer to a request, over a connection of its own.
    pub(super) fn stream(&self, path: &str, body: &Value) -> Stream {
        self.try_stream(path, body).unwrap()
    }

    pub(super) fn try_stream(&self, path: &str, body: &Value) -> Result<Stream> {
        let mut connection = connect(self.address)?;
        connection.get_mut().write_all(&self.request("POST", path, &[], body.to_string().as_bytes()))?;
        let (status, headers) = head(&mut connection)?;
        Ok(Stream { status, lines: BufReader::new(Body::of(connection, status, &headers)?) })
    }

    /// A connection that a request was sent over, and nothing read.
    pub(super) fn only_ask(&self, path: &str, body: &Value) -> TcpStream {
        let mut connection = connect(self.address).unwrap();
        connection.get_mut().write_all(&self.request("POST", path, &[], body.to_string().as_bytes())).unwrap();
        connection.into_inner()
    }

    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let own = [
            ("host", Some(self.address.to_string())),
            ("content-length", Some(body.len().to_string())),
            ("content-type", Some("application/json".to_string())),
            ("authorization", self.key.as_ref().map(|key| format!("Bearer {key}"))),
        ];
        let own = own.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
        let own = own.filter(|(name, _)| !headers.iter().any(|(other, _)| other == name));
        let lines: String = own.chain(headers.iter().copied()).map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        [format!("{method} {path} HTTP/1.1\r\n{lines}\r\n").as_bytes(), body].concat()
    }
}

pub(super) fn connect(address: SocketAddr) -> Result<BufReader<TcpStream>> {
    let connection = TcpStream::connect_timeout(&address, PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    connection.set_nodelay(true)?;
    Ok(BufReader::new(connection))
}

/// Status and headers of an answer, their names in lower case.
pub(super) fn head(from: &mut BufReader<TcpStream>) -> Result<(u16, Headers)> {
    let status = line(from)?;
    let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
    let code = code.ok_or_else(|| Error::new(ErrorKind::InvalidData, format!("no status: {status:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = line(from)?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_string()));
    }
    Ok((code, headers))
}

fn line(from: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    match from.read_line(&mut line)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end_matches(['\r', '\n']).to_string()),
    }
}

impl Body {
    fn of(from: BufReader<TcpStream>, status: u16, headers: &Headers) -> Result<Body> {
        let length = header(headers, "content-length").and_then(|n| n.parse().ok());
        let left = match length {
            Some(n) => Left::Bytes(n),
            None if status == 204 => Left::Bytes(0),
            None if header(headers, "transfer-encoding") == Some("chunked") => Left::Chunk(0, false),
            None => return Err(Error::new(ErrorKind::InvalidData, format!("a body without an end: {headers:?}"))),
        };
        Ok(Body { from, left })
    }
}

impl Read for Body {
    fn read(&mut self, to: &mut [u8]) -> Result<usize> {
        if let Left::Chunk(0, before) = self.left {
            if before {
                line(&mut self.from)?;
            }
            let size = line(&mut self.from)?;
            let size = usize::from_str_radix(&size, 16).map_err(|e| Error::new(ErrorKind::InvalidData, e))?;
            self.left = Left::Chunk(size, true);
            if size == 0 {
                line(&mut self.from)?;
                self.left = Left::Bytes(0);
            }
        }
        let (Left::Bytes(left) | Left::Chunk(left, _)) = &mut self.left;
        let most = to.len().min(*left);
        if most == 0 {
            return Ok(0);
        }
        let n = self.from.read(&mut to[..most])?;
        *left -= n;
        if n == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(n) }
    }
}

impl Stream {
    /// The next event; none where the body ends as it should.
    pub(super) fn try_next(&mut self) -> Result<Option<Event>> {
        loop {
            let mut text = String::new();
            if self.lines.read_line(&mut text)? == 0 {
                return Ok(None);
            }
            match text.trim_end().strip_prefix("data: ") {
                Some("[DONE]") => return Ok(Some(Event::Done)),
                Some(json) => return Ok(Some(Event::Data(serde_json::from_str(json)?))),
                None => {}
            }
        }
    }
}

impl Iterator for Stream {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.try_next().unwrap()
    }
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {} {}", self.status, self.text()))
    }

    /// The body of an answer that must be one.
    pub(super) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// The error of a refusal, which must have OpenAI's form.
    pub(super) fn refused(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        let body = self.json();
        let error = body["error"].as_object().unwrap_or_else(|| panic!("no error: {body}"));
        assert!(error["message"].is_string() && error["type"].is_string() && error["code"].is_string(), "{body}");
        assert!(error["param"].is_string() || error["param"].is_null(), "{body}");
        body["error"].clone()
    }
}
