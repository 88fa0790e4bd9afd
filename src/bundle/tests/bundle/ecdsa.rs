//! ECDSA signatures taken apart and put together, to make the ones that a verifier must not be fooled by.

/// A DER signature as its two integers and back.
pub(crate) fn der_integers(der: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let first = der[3] as usize;
    (der[4..4 + first].to_vec(), der[6 + first..].to_vec())
}

pub(crate) fn der_of(r: &[u8], s: &[u8]) -> Vec<u8> {
    let mut der = vec![0x30, (4 + r.len() + s.len()) as u8, 0x02, r.len() as u8];
    der.extend_from_slice(r);
    der.extend_from_slice(&[0x02, s.len() as u8]);
    der.extend_from_slice(s);
    der
}

pub(crate) const P256_ORDER: &str = "00ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";

/// The other signature that is right whenever this one is: (r, n − s).
pub(crate) fn malleated(der: &[u8]) -> Vec<u8> {
    let (r, s) = der_integers(der);
    let order = hex::decode(P256_ORDER).unwrap();
    let mut padded = vec![0; order.len() - s.len()];
    padded.extend_from_slice(&s);
    let mut difference = vec![0; order.len()];
    let mut borrow = 0;
    for index in (0..order.len()).rev() {
        let value = i32::from(order[index]) - i32::from(padded[index]) - borrow;
        borrow = i32::from(value < 0);
        difference[index] = value.rem_euclid(256) as u8;
    }
    while difference.len() > 1 && difference[0] == 0 && difference[1] < 0x80 {
        difference.remove(0);
    }
    der_of(&r, &difference)
}
