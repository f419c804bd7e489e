//! A server that answers one request: the receiving end of a webhook, the endpoint of an advisor.

use std::io::{self, BufRead, BufReader, Read, Write};

/// Reads one request and answers it with the given status and body. Returns the request, head and
/// body.
pub fn answer(stream: impl Read + Write, status: &str, body: &str) -> io::Result<String> {
    let reply = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut reader = BufReader::new(stream);
    let (mut request, mut length) = (String::new(), 0);
    // An empty line ends the head.
    while reader.read_line(&mut request)? > 2 {
        let line = request.lines().last().unwrap_or_default().to_lowercase();
        length = line.strip_prefix("content-length: ").and_then(|number| number.parse().ok()).unwrap_or(length);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    request += &String::from_utf8_lossy(&body);
    let stream = reader.get_mut();
    stream.write_all(reply.as_bytes())?;
    stream.flush()?;
    Ok(request)
}
