//! The cluster secret at work: proofs that a peer knows it, and seals that
//! bind every record to its connection, direction and place.
//!
//! Decides which hash stands for what. Every use has its own label, so that
//! no proof can be passed off as another. Knows nothing of sockets.

use crate::config::Secret;
use blake3::Hasher;
use subtle::ConstantTimeEq;

/// Bytes of a seal.
pub const SEAL: usize = 16;

/// The keys that the cluster secrets give: the first signs, all verify.
#[derive(Clone)]
pub struct Keyring {
    keys: Vec<[u8; 32]>,
}

/// One key of a [`Keyring`].
#[derive(Clone, Copy)]
pub struct Key([u8; 32]);

/// Which end of a connection speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The one that dialled.
    Client,
    /// The one that was dialled.
    Server,
}

impl Keyring {
    /// Keys for these secrets. Without any, which the configuration allows on
    /// loopback only, there is one key that everybody knows: the same code
    /// runs, and proves nothing.
    pub fn new(secrets: &[Secret]) -> Self {
        let derive = |text: &str| blake3::derive_key("base-ha cluster secret v1", text.as_bytes());
        let keys = match secrets {
            [] => vec![derive("")],
            some => some.iter().map(|s| derive(s.expose())).collect(),
        };
        Self { keys }
    }

    /// A ring with this key alone.
    pub fn of(key: Key) -> Self {
        Self { keys: vec![key.0] }
    }

    /// The key that signs.
    pub fn first(&self) -> Key {
        Key(self.keys[0])
    }

    /// The key with which `side` made `proof` of `transcript`, if it is one of
    /// these. Every key is tried, so that the time tells nothing.
    pub fn verify(&self, side: Side, transcript: &[u8; 32], proof: &[u8; 32]) -> Option<Key> {
        let mut found = None;
        for key in &self.keys {
            let key = Key(*key);
            if bool::from(key.proof(side, transcript).ct_eq(proof)) {
                found = Some(key);
            }
        }
        found
    }
}

impl Key {
    /// Proves that `side` knows the secret, for this exchange only:
    /// `transcript` hashes everything that both have said, nonces included.
    pub fn proof(&self, side: Side, transcript: &[u8; 32]) -> [u8; 32] {
        self.keyed(
            match side {
                Side::Client => b"proof of client",
                Side::Server => b"proof of server",
            },
            transcript,
        )
    }

    /// What seals the records that `side` sends in this exchange.
    pub fn seal(&self, side: Side, transcript: &[u8; 32]) -> Seal {
        let key = self.keyed(
            match side {
                Side::Client => b"seals of client",
                Side::Server => b"seals of server",
            },
            transcript,
        );
        Seal { key, counter: 0 }
    }

    fn keyed(&self, label: &[u8; 15], transcript: &[u8; 32]) -> [u8; 32] {
        let mut hasher = Hasher::new_keyed(&self.0);
        hasher.update(label);
        hasher.update(transcript);
        *hasher.finalize().as_bytes()
    }
}

/// One direction of a connection: makes or checks seals in order. A record
/// that is repeated, left out or moved fails, for its place is sealed too.
pub struct Seal {
    key: [u8; 32],
    counter: u64,
}

impl Seal {
    /// The seal of the next record, given in parts.
    pub fn next(&mut self, parts: &[&[u8]]) -> [u8; SEAL] {
        let mut hasher = Hasher::new_keyed(&self.key);
        hasher.update(&self.counter.to_le_bytes());
        for part in parts {
            hasher.update(part);
        }
        // 2^64 records take longer than any connection lives.
        self.counter += 1;
        let mut seal = [0; SEAL];
        seal.copy_from_slice(&hasher.finalize().as_bytes()[..SEAL]);
        seal
    }

    /// Whether `seal` is that of the next record.
    #[must_use]
    pub fn matches(&mut self, parts: &[&[u8]], seal: &[u8]) -> bool {
        self.next(parts).ct_eq(seal).into()
    }
}

/// Hashes what both sides of an exchange said, each message with its length.
pub fn transcript(messages: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Hasher::new_derive_key("base-ha peer transcript v1");
    for message in messages {
        hasher.update(&(message.len() as u64).to_le_bytes());
        hasher.update(message);
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(secrets: &[&str]) -> Keyring {
        Keyring::new(&secrets.iter().map(|s| Secret::new(*s)).collect::<Vec<_>>())
    }

    #[test]
    fn a_proof_is_of_one_side_one_exchange_and_one_secret() {
        let said = transcript(&[b"a", b"b"]);
        let proof = ring(&["s"]).first().proof(Side::Client, &said);
        assert!(ring(&["s"]).verify(Side::Client, &said, &proof).is_some());
        assert!(ring(&["s"]).verify(Side::Server, &said, &proof).is_none(), "reflected");
        assert!(ring(&["s"]).verify(Side::Client, &transcript(&[b"ab", b""]), &proof).is_none(), "replayed");
        assert!(ring(&["t"]).verify(Side::Client, &said, &proof).is_none(), "another secret");
        assert!(ring(&[]).verify(Side::Client, &said, &proof).is_none(), "no secret");
    }

    #[test]
    fn during_rotation_both_secrets_are_good() {
        let said = transcript(&[b"x"]);
        let proof = ring(&["old", "new"]).first().proof(Side::Client, &said);
        assert!(ring(&["new", "old"]).verify(Side::Client, &said, &proof).is_some());
    }

    #[test]
    fn a_seal_is_of_one_record_in_its_place() {
        let key = ring(&["s"]).first();
        let said = transcript(&[b"x"]);
        let mut sender = key.seal(Side::Client, &said);
        let (one, two) = (sender.next(&[b"one"]), sender.next(&[b"two"]));
        let receiver = || key.seal(Side::Client, &said);
        let mut fine = receiver();
        assert!(fine.matches(&[b"o", b"ne"], &one) && fine.matches(&[b"two"], &two));
        assert!(!receiver().matches(&[b"two"], &two), "left out");
        let mut repeated = receiver();
        assert!(repeated.matches(&[b"one"], &one) && !repeated.matches(&[b"one"], &one), "repeated");
        assert!(!receiver().matches(&[b"onf"], &one), "changed");
        assert!(!key.seal(Side::Server, &said).matches(&[b"one"], &one), "sent back");
    }
}
