//! A blocking HTTP/1.1 client for the commands and the tests: one request a
//! connection.
//!
//! Decides how a request is written and an answer read. Knows nothing of what
//! either means. The node itself does not use it.

use super::trust::Trust;
use crate::config::Secret;
use crate::tls::stream::{explain, is_tls};
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// The longest line of a header that is read.
const LINE_MAX: u64 = 64 << 10;

/// Talks to one node.
#[derive(Debug, Clone)]
pub struct Client {
    place: String,
    /// By TLS, and whom to believe then.
    tls: Option<Trust>,
    token: Option<Secret>,
    timeout: Duration,
}

/// An HTTP answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, whole.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// The URL is not `http://host:port` or `https://host:port`.
    Url(String),
    /// No connection was made: the request was certainly not received.
    Unreachable(String, io::Error),
    /// The connection broke or timed out: the request may have been carried
    /// out.
    Broken(String, io::Error),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => write!(f, "{url:?} is not a URL of the form http://host:port or https://host:port"),
            Self::Unreachable(place, error) if is_tls(error) => {
                write!(f, "no TLS connection to {place}: {}", explain(error))
            }
            Self::Unreachable(place, error) => write!(f, "nothing answers at {place}: {}", explain(error)),
            Self::Broken(place, error) => write!(f, "the connection to {place} broke: {}", explain(error)),
        }
    }
}

impl std::error::Error for ClientError {}

impl Answer {
    /// The first header of that name, which is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The body as text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl Client {
    /// A client of the node at `url`, `http://host:port` or `https://host:port`.
    ///
    /// # Errors
    /// [`ClientError::Url`].
    pub fn new(url: &str) -> Result<Self, ClientError> {
        let bad = || ClientError::Url(url.to_string());
        let (scheme, place) = url.trim_end_matches('/').split_once("://").ok_or_else(bad)?;
        let tls = match scheme {
            "http" => None,
            "https" => Some(Trust::default()),
            _ => return Err(bad()),
        };
        if place.is_empty() || place.contains(['/', '@', '?', '#', ' ']) {
            return Err(bad());
        }
        let ported = place.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let place =
            if ported { place.to_string() } else { format!("{place}:{}", if tls.is_some() { 443 } else { 80 }) };
        Ok(Self { place, tls, token: None, timeout: Duration::from_secs(30) })
    }

    /// Sends this bearer token along.
    #[must_use]
    pub fn with_token(mut self, token: Option<Secret>) -> Self {
        self.token = token;
        self
    }

    /// Believes these certificates, where the URL asks for TLS; the machine's
    /// by default.
    #[must_use]
    pub fn with_trust(mut self, trust: Trust) -> Self {
        if self.tls.is_some() {
            self.tls = Some(trust);
        }
        self
    }

    /// Gives up on a silent connection after so long; 30 s by default.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The token it sends along.
    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_ref().map(Secret::expose)
    }

    /// Whom it believes, if it talks by TLS.
    pub(super) fn trust(&self) -> Option<&Trust> {
        self.tls.as_ref()
    }

    /// The URL it talks to.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.place)
    }

    /// Whether anybody takes a connection there, whatever it says then.
    pub(super) fn is_heard(&self) -> bool {
        self.connect().is_ok()
    }

    /// GETs a path.
    ///
    /// # Errors
    /// [`ClientError`] if there is no answer; an answer of any status is one.
    pub fn get(&self, path: &str) -> Result<Answer, ClientError> {
        self.request("GET", path, &[], b"")
    }

    /// POSTs JSON to a path.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post(&self, path: &str, body: &serde_json::Value) -> Result<Answer, ClientError> {
        self.request("POST", path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
    }

    /// Sends any request. A `Host`, `Authorization` or `Content-Length` among
    /// `headers` replaces the usual one.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, ClientError> {
        let unreachable = |e| ClientError::Unreachable(self.place.clone(), e);
        let stream = self.connect().map_err(unreachable)?;
        let broken = |e| ClientError::Broken(self.place.clone(), e);
        let Some(trust) = &self.tls else {
            return self.exchange(stream, method, path, headers, body).map_err(broken);
        };
        let host = self.place.rsplit_once(':').map_or(self.place.as_str(), |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let stream = trust.encrypt(host, stream).map_err(unreachable)?;
        self.exchange(stream, method, path, headers, body).map_err(broken)
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in self.place.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, self.timeout.min(Duration::from_secs(5))) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(self.timeout))?;
                    stream.set_write_timeout(Some(self.timeout))?;
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn exchange(
        &self,
        mut stream: impl Read + Write,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        let mut usual = vec![("Host", self.place.clone()), ("Content-Length", body.len().to_string())];
        if let Some(token) = &self.token {
            usual.push(("Authorization", format!("Bearer {}", token.expose())));
        }
        for (name, value) in usual {
            if !headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name)) {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        // A node that refuses a body may answer and close before it has read
        // all of it: then the answer counts, not the failed write.
        let sent = stream.write_all(body);
        match read_answer(BufReader::new(stream), method == "HEAD") {
            Ok(answer) => Ok(answer),
            Err(error) => Err(sent.err().unwrap_or(error)),
        }
    }
}

fn read_answer(mut from: impl BufRead, bodiless: bool) -> io::Result<Answer> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
    loop {
        let line = read_line(&mut from)?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| bad("no status line"))?;
        let mut headers = Vec::new();
        loop {
            let line = read_line(&mut from)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad("a header without a colon"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_string()));
        }
        // 1xx announces the answer proper.
        if (100..200).contains(&status) {
            continue;
        }
        let mut answer = Answer { status, headers, body: Vec::new() };
        if bodiless || status == 204 || status == 304 {
            return Ok(answer);
        }
        if answer.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            read_chunks(&mut from, &mut answer.body)?;
        } else if let Some(length) = answer.header("content-length") {
            let length: u64 = length.parse().map_err(|_| bad("a length that is no number"))?;
            from.take(length).read_to_end(&mut answer.body)?;
            if answer.body.len() as u64 != length {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer was cut short"));
            }
        } else {
            from.read_to_end(&mut answer.body)?;
        }
        return Ok(answer);
    }
}

fn read_chunks(from: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
    loop {
        let line = read_line(from)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(|_| bad("a chunk without a size"))?;
        if size == 0 {
            while !read_line(from)?.is_empty() {}
            return Ok(());
        }
        let before = body.len();
        from.by_ref().take(size).read_to_end(body)?;
        if (body.len() - before) as u64 != size || !read_line(from)?.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer was cut short"));
        }
    }
}

fn read_line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    from.by_ref().take(LINE_MAX).read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer was cut short"));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> io::Result<Answer> {
        read_answer(text.as_bytes(), false)
    }

    #[test]
    fn answers_are_read_in_all_three_framings() {
        let a = read("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Base-Term: 7\r\n\r\nokmore").expect("whole");
        assert_eq!((a.status, a.text().as_str(), a.header("x-base-term")), (200, "ok", Some("7")));
        let a = read(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n3;x\r\nays\r\n0\r\n\r\n",
        );
        assert_eq!(a.expect("whole").text(), "okays");
        assert_eq!(read("HTTP/1.1 503 No\r\n\r\nto the end").expect("whole").text(), "to the end");
    }

    #[test]
    fn answers_that_are_cut_short_are_errors() {
        assert!(read("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok").is_err());
        assert!(read("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok").is_err());
        assert!(read("HTTP/1.1 200 OK\r\nContent-Le").is_err());
        assert!(read("").is_err());
    }

    #[test]
    fn urls_are_checked() {
        assert_eq!(Client::new("http://h:1/").expect("legal").url(), "http://h:1");
        assert_eq!(Client::new("http://h").expect("legal").url(), "http://h:80");
        assert_eq!(Client::new("https://h").expect("legal").url(), "https://h:443");
        for bad in ["h:1", "ftp://h:1", "http://", "http://h/p", "http://u@h"] {
            assert!(Client::new(bad).is_err(), "{bad}");
        }
    }
}
