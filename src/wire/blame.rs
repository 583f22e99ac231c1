//! Who caused an error that a client saw, as far as its SQLSTATE tells.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The statement, the protocol or the password was wrong.
    Client,
    /// A node could not be reached, broke off, or lacked something.
    Node,
    /// A limit or a fault of the proxy.
    Proxy,
}

impl Blame {
    pub const ALL: [Self; 3] = [Self::Client, Self::Node, Self::Proxy];

    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Node => "node",
            Self::Proxy => "proxy",
        }
    }

    /// For an error that a node has answered.
    pub fn of_node(sqlstate: &[u8]) -> Self {
        match sqlstate {
            b"57P01" | b"57P02" | b"57P03" | b"57P04" => Self::Node,
            // Lack of resources, limits, the operating system, a broken file or server.
            [b'5', b'3' | b'4' | b'8', ..] | [b'F', b'0', ..] | [b'X', b'X', ..] => Self::Node,
            _ => Self::Client,
        }
    }

    /// For an error of pgshunt's own.
    pub fn of_ours(sqlstate: &str) -> Self {
        match sqlstate.as_bytes() {
            b"08P01" => Self::Client,
            // What it says about its connection to a node.
            [b'0', b'8', ..] | b"57P03" => Self::Node,
            b"0A000" | b"40001" | b"57P01" => Self::Proxy,
            [b'5', b'3' | b'4', ..] | [b'X', b'X', ..] => Self::Proxy,
            _ => Self::Client,
        }
    }
}

/// Errors that were told, by whom they are blamed on.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Errors([u64; Blame::ALL.len()]);

impl Errors {
    pub fn count(&mut self, blame: Blame) {
        self.0[blame as usize] += 1;
    }

    pub fn each(self) -> impl Iterator<Item = (Blame, u64)> {
        Blame::ALL.into_iter().zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sqlstate_tells_whose_fault_it_was() {
        for (code, node, ours) in [
            ("42601", Blame::Client, Blame::Client),
            ("28P01", Blame::Client, Blame::Client),
            ("0A000", Blame::Client, Blame::Proxy),
            ("08006", Blame::Client, Blame::Node),
            ("53300", Blame::Node, Blame::Proxy),
            ("57P01", Blame::Node, Blame::Proxy),
            ("57P05", Blame::Client, Blame::Client),
            ("XX001", Blame::Node, Blame::Proxy),
        ] {
            assert_eq!(Blame::of_node(code.as_bytes()), node, "{code}");
            assert_eq!(Blame::of_ours(code), ours, "{code}");
        }
        let mut errors = Errors::default();
        errors.count(Blame::Proxy);
        errors.count(Blame::Proxy);
        assert_eq!(errors.each().map(|(_, n)| n).collect::<Vec<_>>(), [0, 0, 2]);
    }
}
