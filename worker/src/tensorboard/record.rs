//! The framing of event files (TFRecord): length, its checksum, the message, its checksum; numbers little-endian.

/// CRC-32C, turned and shifted so that checksums of texts with checksums in them stay good ones.
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

/// Appends one record to a file.
pub(super) fn append(file: &mut Vec<u8>, message: &[u8]) {
    let length = (message.len() as u64).to_le_bytes();
    file.extend_from_slice(&length);
    file.extend_from_slice(&masked(&length).to_le_bytes());
    file.extend_from_slice(message);
    file.extend_from_slice(&masked(message).to_le_bytes());
}
