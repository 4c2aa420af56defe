//! Where a request comes from.
//!
//! The other end of the connection, unless that is a proxy that is trusted to say who it speaks for. A header is
//! whoever's who wrote it: a client can send one with any address in it, and a proxy adds the address of who sent that
//! to it, on the right. So the list is read from the right, and counts for as long as those who wrote it are trusted.

use std::net::{IpAddr, SocketAddr};

use axum::http::header::FORWARDED;
use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The header in which proxies say whom they speak for.
///
/// One of them, and not whichever is there: a proxy that writes one of them passes on the other as its client has sent
/// it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyHeader {
    /// `X-Forwarded-For: client, proxy`
    #[default]
    XForwardedFor,
    /// `Forwarded: for=client, for=proxy` ([RFC 7239](https://www.rfc-editor.org/rfc/rfc7239))
    Forwarded,
}

/// The proxies in front of the server. By default there are none.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// Their networks.
    pub trusted: Vec<IpNet>,
    /// What they write.
    pub header: ProxyHeader,
}

impl Proxies {
    /// Who has sent a request that came from there.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let name = match self.header {
            ProxyHeader::XForwardedFor => X_FORWARDED_FOR,
            ProxyHeader::Forwarded => FORWARDED,
        };
        for line in headers.get_all(name).iter().rev() {
            let line = String::from_utf8_lossy(line.as_bytes());
            let addresses = match self.header {
                ProxyHeader::XForwardedFor => Some(line.split(',').map(address).collect()),
                ProxyHeader::Forwarded => forwarded(&line),
            };
            let addresses: Vec<Option<IpAddr>> = addresses.unwrap_or_else(|| vec![None]);
            for address in addresses.into_iter().rev() {
                // Of what cannot be read, or is hidden, it is known who has written it.
                let Some(address) = address.filter(|_| self.trusts(client)) else { return client };
                client = address;
            }
        }
        client
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }
}

/// The addresses in a line of `Forwarded`; none if it ends within quotes. A client that opens them and does not close
/// them would make what a proxy has added a part of its own text.
fn forwarded(line: &str) -> Option<Vec<Option<IpAddr>>> {
    let elements = split(line, ',')?;
    Some(elements.into_iter().map(|element| address(node(element)?)).collect())
}

/// The parts between separators, of which those within quotes are none.
fn split(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parts = text.split(|character| {
        let was_escaped = std::mem::take(&mut is_escaped);
        match character {
            '\\' if is_quoted && !was_escaped => is_escaped = true,
            '"' if !was_escaped => is_quoted = !is_quoted,
            _ => {}
        }
        character == separator && !is_quoted
    });
    let parts = parts.collect();
    (!is_quoted).then_some(parts)
}

/// What `for` is in an element of `Forwarded`.
fn node(element: &str) -> Option<&str> {
    let mut nodes = split(element, ';')?.into_iter().filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| value.trim())
    });
    // Of two values nobody could say which one counts.
    let (Some(value), None) = (nodes.next(), nodes.next()) else { return None };
    // No address has anything in it that would have to be escaped.
    Some(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
}

/// An address, with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let plain = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = plain.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn client(header: ProxyHeader, peer: &str, lines: &[(&'static str, &str)]) -> String {
        let trusted = ["10.0.0.0/8", "2001:db8::/32"].map(|network| network.parse().unwrap()).to_vec();
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        Proxies { trusted, header }.client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn the_rightmost_that_is_no_proxy_is_the_client() {
        let client = |peer, values: &[&str]| {
            let lines: Vec<_> = values.iter().map(|value| ("x-forwarded-for", *value)).collect();
            client(ProxyHeader::XForwardedFor, peer, &lines)
        };
        for (values, expected) in [
            (&[][..], PROXY),
            (&["192.0.2.1"], "192.0.2.1"),
            (&["192.0.2.1:4711"], "192.0.2.1"),
            (&["::ffff:192.0.2.1"], "192.0.2.1"),
            (&["[2001:7f8::1]:4711"], "2001:7f8::1"),
            (&["[2001:7f8::1]"], "2001:7f8::1"),
            (&["192.0.2.1, 10.0.0.2"], "192.0.2.1"),
            (&["192.0.2.1", "10.0.0.2, 2001:db8::2"], "192.0.2.1"),
            // What the client has written itself is to the left of its own address.
            (&["198.51.100.9, 192.0.2.1"], "192.0.2.1"),
            (&["10.0.0.9, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),
            (&["198.51.100.9", "192.0.2.1"], "192.0.2.1"),
            // All of them are proxies: the first has sent it by itself.
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            // What cannot be read is as if the list began behind it.
            (&["192.0.2.1, unknown"], PROXY),
            (&["192.0.2.1, unknown, 10.0.0.2"], "10.0.0.2"),
            (&["192.0.2.1,"], PROXY),
            (&["192.0.2.1 10.0.0.2"], PROXY),
        ] {
            assert_eq!(client(PROXY, values), expected, "{values:?}");
        }
        assert_eq!(client("192.0.2.7", &["198.51.100.9"]), "192.0.2.7", "nobody is trusted who is no proxy");
        assert_eq!(client("::ffff:10.0.0.1", &["198.51.100.9"]), "198.51.100.9");
    }

    #[test]
    fn forwarded_is_read_as_its_rfc_has_it() {
        for (value, expected) in [
            ("for=192.0.2.1", "192.0.2.1"),
            ("For=\"192.0.2.1:4711\";proto=https", "192.0.2.1"),
            ("proto=https;for=\"[2001:7f8::1]:4711\";by=10.0.0.1", "2001:7f8::1"),
            ("for=198.51.100.9, for=192.0.2.1;host=\"a,b;for=198.51.100.9\", for=10.0.0.2", "192.0.2.1"),
            ("for=192.0.2.1;host=\"\\\", for=10.0.0.9\"", "192.0.2.1"),
            ("for=_hidden", PROXY),
            ("for=unknown, for=10.0.0.2", "10.0.0.2"),
            ("for=192.0.2.1;for=192.0.2.2", PROXY),
            ("proto=https", PROXY),
            // Quotes that the client has opened and not closed.
            ("for=\"192.0.2.1", PROXY),
            ("for=198.51.100.9;host=\", for=192.0.2.1", PROXY),
            ("for=198.51.100.9;host=\", for=\"[2001:7f8::1]\"", PROXY),
            ("for=198.51.100.9;host=\"\\, for=192.0.2.1", PROXY),
            ("192.0.2.1", PROXY),
        ] {
            assert_eq!(client(ProxyHeader::Forwarded, PROXY, &[("forwarded", value)]), expected, "{value}");
        }
    }

    #[test]
    fn the_header_that_the_proxy_does_not_write_counts_for_nothing() {
        let both = [("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=192.0.2.2")];
        assert_eq!(client(ProxyHeader::XForwardedFor, PROXY, &both), "192.0.2.1");
        assert_eq!(client(ProxyHeader::Forwarded, PROXY, &both), "192.0.2.2");
        assert_eq!(client(ProxyHeader::XForwardedFor, PROXY, &both[1..]), PROXY);
    }
}
