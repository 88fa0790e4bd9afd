//! Everything that can stop a sealing; `exit` has the exit codes that say so.

mod exit;

use std::io;
use std::path::PathBuf;

use ampoule_bundle::age::{AgeError, IdentityError};
use ampoule_bundle::trust::MinimumCounter;
use ampoule_bundle::{BundleError, BundleName, BundlePath, KeyId, NotAFile, Timestamp, WeightHeaderError};
use sigstore::errors::SigstoreError;

use crate::conversion::ConversionError;
use crate::oms::OmsError;

/// Why a command of `ampoule-seal` did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealingError {
    /// A key, a trust root or a folder would have been overwritten.
    #[error("{path} exists already: choose another name, or remove it first")]
    AlreadyExists {
        /// The file that stands in the way.
        path: PathBuf,
    },
    /// A key would come into a role that has it.
    #[error("key {key} is in the role `{role}` already: name another key, or another role")]
    AlreadyInRole {
        /// The key.
        key: KeyId,
        /// The role.
        role: &'static str,
    },
    /// A key would sign twice, and count once.
    #[error(
        "key {key} has signed this {what} already, and a second signature counts for nothing: sign with another key"
    )]
    AlreadySigned {
        /// What would be signed.
        what: &'static str,
        /// The key.
        key: KeyId,
    },
    /// `SOURCE_DATE_EPOCH` is no number.
    #[error("SOURCE_DATE_EPOCH is `{found}`: expected whole seconds since 1970")]
    BadSourceDateEpoch {
        /// Its value.
        found: String,
    },
    /// The bundle that was just read, or was about to be written, breaks the format.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A bundle or a signature would have been overwritten.
    #[error("{path} exists already: choose another name, or replace it with --force")]
    ExistsUnforced {
        /// The file that stands in the way.
        path: PathBuf,
    },
    /// A chain whose leaf certifies another key than the one that signs.
    #[error(
        "the first certificate in {path} is for the key {found}, and {expected} signs: put that key's own certificate first"
    )]
    ChainOfAnotherKey {
        /// The chain's file.
        path: PathBuf,
        /// The certified key.
        found: KeyId,
        /// The key that signs.
        expected: KeyId,
    },
    /// The model cannot be run here, or says nothing that sites could be held to.
    #[error("no known answers can be recorded, and without --known-answers the bundle is sealed without: {reason}")]
    NoKnownAnswers {
        /// What stands in the way.
        reason: String,
    },
    /// Known answers are given and are to be recorded.
    #[error("the contract holds known answers and --known-answers would record others: give one of them")]
    KnownAnswersTwice,
    /// Known answers of an adapter.
    #[error("an adapter has no answers of its own to record: --known-answers goes with the base")]
    KnownAnswersOfAdapter,
    /// A file became another one while it was sealed.
    #[error("{path} changed while it was sealed: nothing was written; seal it again when nobody writes to it")]
    ChangedMeanwhile {
        /// Its name in the bundle.
        path: String,
    },
    /// The model is not quantised.
    #[error(transparent)]
    Conversion(#[from] ConversionError),
    /// The contract is not strict JSON of its shape.
    #[error(transparent)]
    Contract(Box<BundleError>),
    /// The contract names a file that is not sealed.
    #[error(
        "the contract's {member} names {path}, and no such file can be sealed from {from}: put it into the model's folder, and name that folder with --from"
    )]
    ContractFileMissing {
        /// The contract's member.
        member: &'static str,
        /// What it names.
        path: BundlePath,
        /// Where it was looked for.
        from: PathBuf,
    },
    /// A password of no characters protects nothing.
    #[error("the password is empty: put one line into the password file, or type one")]
    EmptyPassword,
    /// A layer cannot be encrypted, or not be opened to encrypt it to others.
    #[error("cannot encrypt {path}")]
    Encrypting {
        /// Its name in the bundle.
        path: String,
        /// What is wrong.
        source: AgeError,
    },
    /// A file of a kind that runs code when it is loaded.
    #[error(
        "{name} is refused, because a .{ending} file can run code when it is loaded: convert it to safetensors, or say --leave-out {name}"
    )]
    ExecutableFile {
        /// Where it lies.
        path: PathBuf,
        /// Its name within the folder.
        name: String,
        /// The ending that decided.
        ending: &'static &'static str,
    },
    /// What is made would have expired before it exists.
    #[error("{what} would expire at {expires}, and it is {now}: give a later --expires")]
    ExpiryPast {
        /// What is made.
        what: &'static str,
        /// When it would expire.
        expires: Timestamp,
        /// What time it is.
        now: Timestamp,
    },
    /// More keys would have to sign than the role has, or none.
    #[error("the threshold of role `{role}` is {threshold}, must lie between 1 and the number of its keys, {keys}")]
    ImpossibleThreshold {
        /// The role.
        role: &'static str,
        /// How many distinct keys it has.
        keys: usize,
        /// The threshold asked for.
        threshold: usize,
    },
    /// A site's key among those that sign models.
    #[error(
        "key {key} would be a `release` and a `site` key: whoever has it could sign any model, so make the site a key of its \
         own with `ampoule-seal keygen site`"
    )]
    KeyInTwoRoles {
        /// The key.
        key: KeyId,
    },
    /// The system's randomness or the key code failed.
    #[error("a key cannot be made or exported")]
    KeyGeneration(#[source] Box<SigstoreError>),
    /// A link in the model's folder leads out of it.
    #[error(
        "{name} is a symbolic link to {target}, which lies outside of {folder}: copy the file to where the link is, or \
         say --leave-out {name}"
    )]
    LinkLeadsElsewhere {
        /// The link's name within the folder.
        name: String,
        /// What it says.
        target: PathBuf,
        /// The folder.
        folder: PathBuf,
    },
    /// A minimum would go back.
    #[error(
        "the earlier list admits {name} from counter {} in epoch {} on, and a list only ever takes away: counter {} in epoch {} \
         is lower", known.counter, known.epoch, found.counter, found.epoch
    )]
    LowerMinimum {
        /// The bundles' name.
        name: BundleName,
        /// The minimum asked for.
        found: MinimumCounter,
        /// The minimum of the earlier list.
        known: MinimumCounter,
    },
    /// An identity file that cannot be used.
    #[error("{path} is no file of age identities: {source}")]
    NotAnIdentityFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: IdentityError,
    },
    /// None of the identities opens the bundle.
    #[error("{path} is not encrypted to any of the identities; `ampoule-seal inspect` shows its recipients")]
    NoIdentityFits {
        /// The bundle.
        path: PathBuf,
    },
    /// A plain bundle where an encrypted one is wanted.
    #[error("{path} is not encrypted: everybody can read it; `ampoule-seal seal --encrypt-to` makes an encrypted one")]
    NotEncrypted {
        /// The bundle.
        path: PathBuf,
    },
    /// There is nothing that OpenSSF's client could check.
    #[error("the bundle carries no model signing statement, so there is no model.sig to write")]
    NoModelSignature,
    /// The base of an adapter has no tokenizer that the adapter could be bound to.
    #[error(
        "{path} has no tokenizer, so no adapter can belong to it: name the bundle that the adapter was trained beside"
    )]
    NoTokenizer {
        /// The bundle.
        path: PathBuf,
    },
    /// Standard input is no terminal and no password file was named.
    #[error("no password: name a file with --password-file, or run this on a terminal")]
    NoTerminal(#[source] io::Error),
    /// A model signature of OpenSSF's format, or the folder that it is about, is not as it must be.
    #[error(transparent)]
    Oms(#[from] OmsError),
    /// Standard output does not take the result.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
    /// Neither safetensors nor GGUF was found.
    #[error("{path} holds no *.safetensors and no *.gguf file, so there is nothing to seal")]
    NoWeights {
        /// The folder that was looked through.
        path: PathBuf,
    },
    /// Something else than a file where a bundle is wanted.
    #[error("{path} is {found}, not a .bundle file: name the file that `ampoule-seal seal` wrote with --out")]
    NotABundleFile {
        /// What was named.
        path: PathBuf,
        /// What it is.
        found: NotAFile,
    },
    /// `sign --out` for a file that takes no signature in.
    #[error("{path} is no bundle, so its signature is written beside it: leave out --out and --certificate-chain")]
    NotABundleToSign {
        /// What was named.
        path: PathBuf,
    },
    /// `--from` names neither a folder nor a GGUF file.
    #[error("{path} is neither a folder nor a .gguf file")]
    NotAModel {
        /// What was named.
        path: PathBuf,
    },
    /// A device, a pipe or a socket in a model's folder, or in its place.
    #[error("{path} is neither a file nor a folder: a model holds nothing else, so remove it or leave it out")]
    NotAModelFile {
        /// What lies there.
        path: PathBuf,
    },
    /// Something else than a root, a list or a token.
    #[error("{path} is no trust root, revocation list or downgrade token: `_type` names none of them")]
    NotATrustDocument {
        /// What was named.
        path: PathBuf,
    },
    /// A new bundle that is the old one.
    #[error("{new} is the same bundle as {old}, so a site that holds it needs nothing: name a newer one")]
    NothingNew {
        /// The bundle that a site has.
        old: PathBuf,
        /// The one that it would get.
        new: PathBuf,
    },
    /// A next root that would say what the one before it says.
    #[error(
        "the next root would differ in nothing but its version: name a key with --replace and --by, an epoch, or \
         another --expires"
    )]
    NothingToChange,
    /// The root has no such key.
    #[error("the root has no key {key}: `ampoule-seal trust show` lists those that it has")]
    NotInRoot {
        /// The key.
        key: KeyId,
    },
    /// A list that says what the one before it says.
    #[error("there is nothing to revoke that is not revoked yet: name a --key-id, a --bundle or a --minimum-counter")]
    NothingToRevoke,
    /// A public key was expected.
    #[error("{path} is not a public key: expected PEM text that starts with -----BEGIN PUBLIC KEY-----")]
    NotAPublicKey {
        /// What was named.
        path: PathBuf,
    },
    /// Something in the folder of a release that is neither a file nor a folder.
    #[error("{path} is neither a file nor a folder: a release holds nothing else, so remove it")]
    NotAReleaseFile {
        /// What lies there.
        path: PathBuf,
    },
    /// A private key that lies there in the clear, or no key at all.
    #[error(
        "{path} is not an encrypted private key: expected PEM text made by `ampoule-seal keygen` or `cosign generate-key-pair`"
    )]
    NotAnEncryptedKey {
        /// What was named.
        path: PathBuf,
    },
    /// An adapter that would compute nothing but nonsense.
    #[error("the adapter's tensor {tensor} has an infinity or a NaN in it: it cannot be served, train it anew")]
    NotFinite {
        /// The tensor's name.
        tensor: String,
    },
    /// A file that ends in `.json` and is something else.
    #[error("{path} is not JSON")]
    NotJson {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// The two typed passwords are not the same.
    #[error("the two passwords differ: nothing was written")]
    PasswordsDiffer,
    /// A key whose signatures stock `openssl dgst -sha256` would not check.
    #[error(
        "a release is signed with a P-256 key, this one is P-384: make one with `ampoule-seal keygen --curve p256`"
    )]
    ReleaseKeyCurve,
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// One tensor name in two weight files.
    #[error(
        "the tensor {tensor} is in {first} and in {second}: which one is meant? Name the other file with --leave-out"
    )]
    RepeatedTensor {
        /// The tensor's name.
        tensor: String,
        /// Where it was found first.
        first: PathBuf,
        /// Where it was found again.
        second: PathBuf,
    },
    /// Which GGUF file is meant cannot be told.
    #[error(
        "{path} holds several GGUF files, {first} and {second}: name one with --from, or join shards with `gguf-split --merge`"
    )]
    SeveralGgufFiles {
        /// The folder.
        path: PathBuf,
        /// The first file.
        first: String,
        /// The second.
        second: String,
    },
    /// The signer refused.
    #[error("the key cannot sign")]
    Signing(#[source] Box<SigstoreError>),
    /// A file that is small by nature is not.
    #[error("{path} is {found_bytes} bytes long; at most {limit_bytes} are read")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How long it is.
        found_bytes: u64,
        /// The cap.
        limit_bytes: u64,
    },
    /// Both weight formats lie in one folder.
    #[error(
        "{path} holds weights in two formats, {first} and {second}: a bundle holds one, so name the other with --leave-out"
    )]
    TwoWeightFormats {
        /// The folder.
        path: PathBuf,
        /// The first safetensors file.
        first: String,
        /// The first GGUF file.
        second: String,
    },
    /// `--leave-out` names a file that is not there.
    #[error("--leave-out {name}: the folder has no such file")]
    UnknownExclusion {
        /// The name as given.
        name: String,
    },
    /// A leaf certificate that no runtime lets sign.
    #[error("the chain in {path} cannot sign a bundle: {reason}")]
    UnfitLeaf {
        /// The chain's file.
        path: PathBuf,
        /// What it lacks.
        reason: &'static str,
    },
    /// A file name that is not UTF-8.
    #[error("{path:?} has a name that is not UTF-8: rename it")]
    UnreadableName {
        /// The file.
        path: PathBuf,
    },
    /// A key on a curve that the runtime does not verify.
    #[error("{path} is a {found} key; the format takes P-256 and P-384")]
    UnsupportedCurve {
        /// The key file.
        path: PathBuf,
        /// Its curve.
        found: &'static str,
    },
    /// What was written is a bundle that every runtime would refuse.
    #[error("what would be sealed cannot be used, so no bundle was written")]
    UnusableBundle(#[source] Box<BundleError>),
    /// A file that is no certificate chain, or no authority's certificate.
    #[error("{path} holds no certificates that can be used: expected PEM text, the leaf first")]
    UnusableChain {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<BundleError>,
    },
    /// A key file that the key code does not understand.
    #[error("{path} is not a usable private key")]
    UnusableKey {
        /// The key file.
        path: PathBuf,
        /// What the key code said.
        source: Box<SigstoreError>,
    },
    /// A public key file whose key the format does not take.
    #[error("{path} is not a usable public key")]
    UnusablePublicKey {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<BundleError>,
    },
    /// A weight file that is longer than a layer can be.
    #[error("{path} would be {found_bytes} bytes long, a layer holds at most {limit_bytes}: quantise it further")]
    WeightFileTooLong {
        /// Its name in the bundle.
        path: String,
        /// How long it is.
        found_bytes: u64,
        /// The format's limit.
        limit_bytes: u64,
    },
    /// A weight file that the runtime's checked parser refuses.
    #[error("{path} is damaged, or is not what its name says")]
    WeightHeader {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: WeightHeaderError,
    },
    /// Weights below a subfolder, which no loader here looks for.
    #[error(
        "{name} lies in a subfolder; the runtime loads weights of the top folder only, so move it or say --leave-out {name}"
    )]
    WeightsInSubfolder {
        /// Where it lies.
        path: PathBuf,
        /// Its name within the folder.
        name: String,
    },
    /// A file that this command does not take, because it is for another one.
    #[error("{path} is a {found}: {instead}")]
    WrongCommand {
        /// What was named.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What to do with such a file.
        instead: &'static str,
    },
    /// The password does not open the key.
    #[error("the password does not open {path}")]
    WrongPassword {
        /// The key file.
        path: PathBuf,
    },
    /// A file could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
