//! Framing: a big-endian `u32` length, then that many bytes of JSON.
//!
//! The reader takes bytes in whatever pieces they arrive and never trusts the
//! length it is told: a frame longer than [`MAX_FRAME`] is an error at once,
//! before a byte of it is stored.

use serde::{Serialize, de::DeserializeOwned};

/// The longest frame that is accepted, in bytes. The largest honest one, a
/// failure with its message, is a few kilobytes.
pub const MAX_FRAME: usize = 256 * 1024;

/// Why a stream of frames cannot be read on. None of them can be recovered
/// from: where one frame ends wrongly, the next cannot be found.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// The length field says more than [`MAX_FRAME`].
    #[error("a frame of {0} bytes is longer than the {MAX_FRAME} that are allowed")]
    TooLong(usize),
    /// The bytes are not the JSON of the expected message.
    #[error("not a message: {0}")]
    Malformed(String),
}

/// The bytes of one frame with `message` in it.
///
/// # Errors
/// When the message does not fit in [`MAX_FRAME`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let body = serde_json::to_vec(message).map_err(|e| FrameError::Malformed(e.to_string()))?;
    if body.len() > MAX_FRAME {
        return Err(FrameError::TooLong(body.len()));
    }
    let mut bytes = Vec::with_capacity(body.len() + 4);
    let length = u32::try_from(body.len()).expect("MAX_FRAME fits in 32 bits");
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// Collects bytes and gives out whole frames.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: Vec<u8>,
}

impl Decoder {
    /// Adds bytes as they were read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` until more bytes came.
    ///
    /// # Errors
    /// When the stream is not one of frames; it cannot be read on then.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some((head, rest)) = self.pending.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*head) as usize;
        if length > MAX_FRAME {
            return Err(FrameError::TooLong(length));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let message =
            serde_json::from_slice(body).map_err(|e| FrameError::Malformed(e.to_string()))?;
        self.pending.drain(..4 + length);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_survive_any_chunking(
            messages in prop::collection::vec(".{0,40}", 0..8),
            cuts in prop::collection::vec(1usize..9, 1..64),
        ) {
            let bytes: Vec<u8> =
                messages.iter().flat_map(|m| encode(m).expect("short")).collect();
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                decoder.push(now);
                rest = later;
                while let Some(m) = decoder.take::<String>().expect("well formed") { seen.push(m) }
            }
            prop_assert_eq!(seen, messages);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.take::<serde_json::Value>() {}
        }
    }

    #[test]
    fn a_length_from_outer_space_is_refused_before_its_bytes_come() {
        let mut decoder = Decoder::default();
        decoder.push(&u32::MAX.to_be_bytes());
        assert_eq!(decoder.take::<String>(), Err(FrameError::TooLong(u32::MAX as usize)));
    }
}
