//! The corpus: values that hold a secret, and values that look as if.

pub mod places;

/// The presets' names.
pub const PRESETS: [&str; 6] = ["email", "card", "token", "phone", "ip", "iban"];

/// What stands before and after a secret in a framed text, and must stay.
pub const LEAD_IN: &str = "lead-in";
pub const LEAD_OUT: &str = "lead-out";

/// One value.
#[derive(Debug)]
pub struct Case {
    /// What it is.
    pub kind: &'static str,
    /// The key it stands under.
    pub key: &'static str,
    /// The value, as text.
    pub text: String,
    /// The value, if it is an integer.
    pub int: Option<i64>,
    /// What must not leave.
    pub secret: String,
}

impl Case {
    pub fn is_framed(&self) -> bool {
        self.text.contains(LEAD_IN)
    }

    /// An integer, as the wire has it.
    pub fn varint(&self) -> Option<Vec<u8>> {
        self.int.map(|int| {
            let mut out = Vec::new();
            prost::encoding::encode_varint(int as u64, &mut out);
            out
        })
    }
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }

    fn of(&mut self, alphabet: &str, count: u64) -> String {
        let letters: Vec<char> = alphabet.chars().collect();
        (0..count).map(|_| self.pick(&letters)).collect()
    }

    fn digits(&mut self, count: u64) -> String {
        self.of("0123456789", count)
    }

    fn hex(&mut self, count: u64) -> String {
        self.of("0123456789abcdef", count)
    }

    fn word(&mut self) -> String {
        let count = self.between(3, 9);
        self.of("abcdefghijklmnopqrstuvwxyz", count)
    }
}

const ALNUM: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

// === Positives ===

pub fn positives() -> Vec<Case> {
    let random = &mut Random(1);
    (0..2500).map(|index| positive(random, index)).collect()
}

fn positive(random: &mut Random, index: usize) -> Case {
    let case = |kind, key, text: String, secret: String| Case { kind, key, text, int: None, secret };
    match index % 6 {
        0 => {
            let address = address(random);
            embed(random, "email", address)
        }
        1 => {
            let number = card(random);
            match random.below(6) {
                0 => {
                    let int = number.parse().ok().filter(|_| number.len() < 19);
                    Case { kind: "card", key: "value", text: number.clone(), int, secret: number }
                }
                _ => {
                    let number = grouped(random, &number);
                    embed(random, "card", number)
                }
            }
        }
        2 => credential(random),
        3 => match random.below(6) {
            0 => {
                let number = format!("4{}", random.digits(9));
                let key = random.pick(&["user.phone", "phone_number", "msisdn", "contactPhone"]);
                let int = number.parse().ok().filter(|_| random.below(2) == 0);
                Case { kind: "phone", key, text: number.clone(), int, secret: number }
            }
            _ => {
                let number = phone(random);
                embed(random, "phone", number)
            }
        },
        4 => {
            let address = ip(random);
            match random.below(5) {
                0 => case("ip", "value", format!("{LEAD_IN} http://{}/ {LEAD_OUT}", host(&address)), address),
                _ => embed(random, "ip", address),
            }
        }
        _ => {
            let account = iban(random);
            embed(random, "iban", account)
        }
    }
}

fn host(address: &str) -> String {
    if address.contains(':') { format!("[{address}]:8080") } else { format!("{address}:8080") }
}

/// A secret that is told by its shape, in a text around it.
fn embed(random: &mut Random, kind: &'static str, secret: String) -> Case {
    let s = &secret;
    let number = random.below(1000);
    let escaped = |text: &str| {
        let codes = [("%", "%25"), ("@", "%40"), (" ", "%20"), ("+", "%2B"), (":", "%3A"), ("\n", "%0A")];
        codes.iter().fold(text.to_owned(), |text, (plain, code)| text.replace(plain, code))
    };
    let (text, secret) = match random.below(10) {
        0 => (s.clone(), secret),
        1 => (format!("{LEAD_IN} request {number} of {s} failed {LEAD_OUT}"), secret),
        2 => (format!(r#"{{"a":"{LEAD_IN}","b":"{s}","c":"{LEAD_OUT}"}}"#), secret),
        3 => (format!(r#"{{\"a\":\"{LEAD_IN}\",\"b\":\"{s}\",\"c\":\"{LEAD_OUT}\"}}"#), secret),
        4 => {
            let secret = escaped(s);
            (format!("https://shop.example/{LEAD_IN}?n={number}&v={secret}&x={LEAD_OUT}"), secret)
        }
        9 => {
            let secret = escaped(&escaped(s));
            (format!("/{LEAD_IN}?next=%2Fpay%3Fn%3D{number}%26v%3D{secret}%26x%3D{LEAD_OUT}"), secret)
        }
        5 => (format!("<{LEAD_IN}>{s}</{LEAD_OUT}>"), secret),
        6 => (format!(r"{LEAD_IN}\n{s}\n{LEAD_OUT}"), secret),
        7 => (format!("{LEAD_IN}: ({s}), {LEAD_OUT}"), secret),
        _ => (format!("{LEAD_IN};value={s};{LEAD_OUT}"), secret),
    };
    Case { kind, key: "value", text, int: None, secret }
}

fn address(random: &mut Random) -> String {
    let (a, b, n) = (random.word(), random.word(), random.below(100));
    let local = match random.below(6) {
        0 => a,
        1 => format!("{a}.{b}"),
        2 => format!("{a}+{b}{n}"),
        3 => format!("{a}_{n}"),
        4 => format!("{a}-{b}"),
        _ => format!("{}{b}", &a[..1].to_uppercase()),
    };
    let domain =
        random.pick(&["example.com", "mail.example.co.uk", "b\u{fc}cher.example", "x-y.io", "EXAMPLE.ORG"]);
    format!("{local}@{domain}")
}

/// A number with its check digit.
fn card(random: &mut Random) -> String {
    let (prefix, length) = random.pick(&[
        ("4", 16),
        ("4", 13),
        ("4", 19),
        ("51", 16),
        ("55", 16),
        ("2221", 16),
        ("2720", 16),
        ("34", 15),
        ("37", 15),
        ("6011", 16),
        ("65", 16),
        ("3528", 16),
        ("36", 14),
        ("305", 14),
        ("62", 16),
        ("6759", 16),
        ("2202", 16),
        ("62", 19),
    ]);
    let body = format!("{prefix}{}", random.digits(length - 1 - prefix.len() as u64));
    // Luhn, spelled as the standard does: double every second digit from the right, the check digit not counted.
    let sum: u32 = body
        .bytes()
        .rev()
        .enumerate()
        .map(|(index, digit)| {
            let digit = u32::from(digit - b'0') * if index % 2 == 0 { 2 } else { 1 };
            if digit > 9 { digit - 9 } else { digit }
        })
        .sum();
    format!("{body}{}", (10 - sum % 10) % 10)
}

fn grouped(random: &mut Random, number: &str) -> String {
    let separator = random.pick(&["", "", " ", "-", "."]);
    let sizes: &[usize] = match number.len() {
        15 => &[4, 6, 5],
        14 => &[4, 6, 4],
        _ => &[4, 4, 4, 4, 4],
    };
    let mut groups = Vec::new();
    let mut rest = number;
    for size in sizes {
        let (group, after) = rest.split_at(rest.len().min(*size));
        groups.extend((!group.is_empty()).then_some(group));
        rest = after;
    }
    groups.join(separator)
}

fn credential(random: &mut Random) -> Case {
    let length = random.between(12, 30);
    let plain = format!("{}7{}", random.of(ALNUM, 3), random.of(ALNUM, length));
    let upper = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    let shaped = match random.below(10) {
        0 => format!("eyJ{}.eyJ{}.{}", random.of(ALNUM, 20), random.of(ALNUM, 40), random.of(ALNUM, 43)),
        1 => format!("{}{}", random.pick(&["AKIA", "ASIA"]), random.of(upper, 16)),
        2 => format!("{}_{}", random.pick(&["ghp", "gho", "ghs"]), random.of(ALNUM, 36)),
        3 => format!("xox{}-{}-{}", random.pick(&["b", "p"]), random.digits(11), random.of(ALNUM, 24)),
        4 => format!("glpat-{}", random.of(ALNUM, 20)),
        5 => format!("sk_live_{}", random.of(ALNUM, 24)),
        6 => format!("AIza{}", random.of(ALNUM, 35)),
        7 => format!("github_pat_{}_{}", random.of(ALNUM, 22), random.of(ALNUM, 59)),
        8 => format!(
            "-----BEGIN RSA PRIVATE KEY-----\n{}\n{}\n-----END RSA PRIVATE KEY-----",
            random.of(ALNUM, 64),
            random.of(ALNUM, 50)
        ),
        _ => format!("npm_{}", random.of(ALNUM, 36)),
    };
    let case = |key, text: String| Case { kind: "token", key, text, int: None, secret: plain.clone() };
    let name = random.pick(&["api_key", "apikey", "X-Api-Key", "access_token", "client_secret", "secretKey"]);
    let password = random.pick(&["password", "passwd", "dbPassword", "PWD", "passphrase"]);
    match random.below(16) {
        0 => case("value", format!("{LEAD_IN} Authorization: Bearer {plain} {LEAD_OUT}")),
        1 => case("value", format!("GET /{LEAD_IN}?{name}={plain}&x={LEAD_OUT}")),
        2 => case("value", format!("{LEAD_IN} {password}={plain} {LEAD_OUT}")),
        3 => case("value", format!(r#"{{"a":"{LEAD_IN}","{password}":"{plain}","b":"{LEAD_OUT}"}}"#)),
        4 => {
            case("value", format!(r#"{{\"a\":\"{LEAD_IN}\",\"{name}\": \"{plain}\",\"b\":\"{LEAD_OUT}\"}}"#))
        }
        5 => case("value", format!("{LEAD_IN} postgres://app:{plain}@db.internal:5432/{LEAD_OUT}")),
        6 => case("value", format!("{LEAD_IN} {password}: '{plain} with space' {LEAD_OUT}")),
        7 => case("value", format!("{LEAD_IN} https://{plain}{plain}@git.example/{LEAD_OUT}")),
        8 => case("value", format!("{LEAD_IN} {name} => {plain}, {LEAD_OUT}")),
        9 => case(random.pick(&["db.password", "apiKey", "auth.token", "password"]), plain.clone()),
        10 => {
            // Digits of a password are one, as an integer or a text.
            let digits = format!("9{}", random.digits(9));
            Case {
                kind: "token",
                key: "user.password",
                int: digits.parse().ok(),
                text: digits.clone(),
                secret: digits,
            }
        }
        _ => embed(random, "token", shaped),
    }
}

fn phone(random: &mut Random) -> String {
    let area = random.between(200, 989);
    let (mid, last) = (random.between(200, 999), random.digits(4));
    let d = |random: &mut Random, count| random.digits(count);
    match random.below(14) {
        0 => format!("+1{area}{mid}{last}"),
        1 => format!("+1 ({area}) {mid}-{last}"),
        2 => format!("+1-{area}-{mid}-{last}"),
        3 => format!("({area}) {mid}-{last}"),
        4 => format!("{area}-{mid}-{last}"),
        5 => format!("{area}.{mid}.{last}"),
        6 => format!("1-{area}-{mid}-{last}"),
        7 => format!("+44 20 {} {}", d(random, 4), d(random, 4)),
        8 => format!("020 7{} {}", d(random, 3), d(random, 4)),
        9 => format!("07700 9{}", d(random, 5)),
        10 => format!("+49 (0)30 {}", d(random, 7)),
        11 => format!("+33 6 {} {} {} {}", d(random, 2), d(random, 2), d(random, 2), d(random, 2)),
        12 => format!("01 {} {} {} {}", d(random, 2), d(random, 2), d(random, 2), d(random, 2)),
        _ => format!("0049 151 {}", d(random, 8)),
    }
}

fn ip(random: &mut Random) -> String {
    let octet = |random: &mut Random| random.below(256);
    match random.below(8) {
        0..=3 => {
            let [b, c, d] = [octet(random), octet(random), octet(random)];
            let a = random.between(1, 223);
            format!("{}.{b}.{c}.{d}", if a == 127 { 128 } else { a })
        }
        4 => format!("10.{}.{}.{}", octet(random), octet(random), octet(random)),
        5 => format!("2001:db8::{}", random.hex(4)),
        6 => {
            let groups: Vec<String> = (0..7).map(|_| random.hex(4)).collect();
            format!("2a01:{}", groups.join(":"))
        }
        _ => format!("fe80::{}:{}:{}:{}", random.hex(4), random.hex(4), random.hex(4), random.hex(3)),
    }
}

fn iban(random: &mut Random) -> String {
    let (country, bban) = match random.below(5) {
        0 => ("DE", random.digits(18)),
        1 => ("GB", format!("{}{}", random.of("ABCDEFGHIJKLMNOPQRSTUVWXYZ", 4), random.digits(14))),
        2 => ("NL", format!("ABNA{}", random.digits(10))),
        3 => ("FR", random.digits(23)),
        _ => ("ES", random.digits(20)),
    };
    // ISO 7064: the remainder of the account, the country and 00, as one number of letters' values.
    let rest = format!("{bban}{country}00").chars().fold(0u32, |rest, c| {
        let value = c.to_digit(36).unwrap();
        (rest * if value > 9 { 100 } else { 10 } + value) % 97
    });
    let number = format!("{country}{:02}{bban}", 98 - rest);
    match random.below(3) {
        0 => {
            let chars: Vec<char> = number.chars().collect();
            chars.chunks(4).map(String::from_iter).collect::<Vec<_>>().join(" ")
        }
        1 => number.to_lowercase(),
        _ => number,
    }
}

// === Negatives ===

pub fn negatives() -> Vec<Case> {
    let random = &mut Random(2);
    (0..2500).map(|index| negative(random, index)).collect()
}

fn negative(random: &mut Random, index: usize) -> Case {
    /// What it is, its key, its text.
    type Make = fn(&mut Random) -> (&'static str, &'static str, String);
    const KINDS: [Make; 50] = [
        |r| ("order number", "order.id", format!("ORD-{}-{}", r.between(2019, 2026), r.digits(6))),
        |r| ("order number, digits", "order.id", r.digits(10)),
        |r| ("order number, groups", "value", format!("{}-{}-{}", r.digits(3), r.digits(7), r.digits(7))),
        |r| ("uuid", "request.id", uuid(r)),
        |r| ("trace id", "trace_id", r.hex(32)),
        |r| ("span id", "span_id", r.hex(16)),
        |r| ("sha-256", "digest", format!("sha256:{}", r.hex(64))),
        |r| ("image", "container.image.name", format!("registry.example/app@sha256:{}", r.hex(64))),
        |r| ("timestamp", "time", timestamp(r)),
        |r| ("timestamp in a line", "value", format!("[{}] INFO started", timestamp(r))),
        |r| ("unix milliseconds", "value", format!("17{}", r.digits(11))),
        |r| ("unix microseconds", "value", format!("17{}", r.digits(14))),
        |r| ("unix nanoseconds", "value", format!("17{}", r.digits(17))),
        |r| {
            (
                "date",
                "value",
                format!("{:02}.{:02}.{}", r.between(1, 28), r.between(1, 12), r.between(1990, 2030)),
            )
        },
        |r| {
            (
                "date, US",
                "value",
                format!("{:02}/{:02}/{}", r.between(1, 12), r.between(1, 28), r.between(1990, 2030)),
            )
        },
        |r| {
            (
                "date and time",
                "value",
                format!(
                    "{:02}-{:02}-{} {:02}:15:00",
                    r.between(1, 28),
                    r.between(1, 12),
                    r.between(1990, 2030),
                    r.below(24)
                ),
            )
        },
        |r| ("version", "service.version", version(r)),
        |r| ("version, 4 parts, called one", "value", format!("version {}.{}", version(r), r.below(100))),
        |r| ("version, 4 parts, v", "value", format!("v{}.{}", version(r), r.below(100))),
        |r| ("version, 4 parts, alone", "value", format!("{}.{}", version(r), r.below(100))),
        |r| {
            (
                "user agent",
                "user_agent.original",
                format!(
                    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/{}.0.0.0 Safari/537.36",
                    r.between(90, 150)
                ),
            )
        },
        |r| ("object id", "value", format!("1.3.6.1.4.1.{}.{}", r.below(9999), r.below(99))),
        |r| ("price", "value", format!("EUR {},{}.{}", r.between(1, 999), r.digits(3), r.digits(2))),
        |r| ("16 digits, any", "value", r.digits(16)),
        |r| ("16 digits of a known issuer, wrong check digit", "sku", wrong(&card(r))),
        |r| {
            ("16 digits in groups, wrong check digit", "value", {
                let number = wrong(&card(r));
                grouped(r, &number)
            })
        },
        |r| ("ISBN", "isbn", format!("978-{}-{}-{}-{}", r.digits(1), r.digits(2), r.digits(6), r.digits(1))),
        |r| ("IMEI-like", "value", format!("35{}", r.digits(13))),
        |r| {
            ("parcel", "value", format!("1Z{}{}", r.of("ABCDEFGHJKLMNPQRSTUVWXYZ0123456789", 8), r.digits(8)))
        },
        |r| ("social security number", "value", format!("{}-{}-{}", r.digits(3), r.digits(2), r.digits(4))),
        |r| {
            (
                "coordinates",
                "value",
                format!("{}.{}, {}.{}", r.below(90), r.digits(6), r.below(180), r.digits(6)),
            )
        },
        |r| ("duration", "value", format!("took {}.{}ms", r.below(5000), r.digits(6))),
        |r| ("bytes", "value", format!("{} bytes in {} files", r.digits(9), r.digits(4))),
        |r| ("zero-padded number", "value", format!("00{}", r.digits(9))),
        |r| ("serial number", "value", format!("0{}-{}", r.between(100, 999), r.digits(6))),
        |r| ("MAC address", "value", (0..6).map(|_| r.hex(2)).collect::<Vec<_>>().join(":")),
        |r| {
            (
                "time",
                "value",
                format!("{:02}:{:02}:{:02}.{}", r.below(24), r.below(60), r.below(60), r.digits(6)),
            )
        },
        |r| ("path in code", "code.function", format!("{}::{}::{}", r.word(), r.word(), r.hex(4))),
        |r| ("package", "value", format!("{}@{}", r.word(), version(r))),
        |r| ("image file", "url.path", format!("/img/{}@2x.png", r.word())),
        |r| ("handle", "value", format!("thanks @{} and @{}", r.word(), r.word())),
        |r| ("git remote", "value", format!("git@github.com:{}/{}.git", r.word(), r.word())),
        |r| ("user at host", "value", format!("{}@web-{}", r.word(), r.below(100))),
        |r| {
            ("pod", "k8s.pod.name", format!("{}-{}-{}", r.word(), r.hex(10), r.of("bcdfghjklmnpqrstvwxz", 5)))
        },
        |r| ("talk of tokens", "value", format!("unexpected token: {} in line {}", r.word(), r.below(999))),
        |r| ("count of tokens", "gen_ai.usage.input_tokens", r.digits(4)),
        |r| {
            (
                "talk of passwords",
                "value",
                format!("password: {}", r.pick(&["required", "too short", "must not be empty"])),
            )
        },
        |r| ("talk of authorization", "value", format!("bearer authentication failed for {}", r.word())),
        |r| {
            (
                "statement",
                "db.query.text",
                format!("SELECT * FROM {} WHERE id = {} AND t > '{}'", r.word(), r.digits(8), timestamp(r)),
            )
        },
        |r| {
            (
                "URL",
                "url.full",
                format!(
                    "https://{}.example/api/v{}/orders/{}?page={}",
                    r.word(),
                    r.below(5),
                    r.digits(8),
                    r.below(90)
                ),
            )
        },
    ];
    let (kind, key, text) = KINDS[index % KINDS.len()](random);
    let is_number = text.len() <= 18 && !text.starts_with('0') && (index / KINDS.len()).is_multiple_of(2);
    let int = text.parse().ok().filter(|_| is_number);
    Case { kind, key, text, int, secret: String::new() }
}

fn uuid(r: &mut Random) -> String {
    format!("{}-{}-4{}-a{}-{}", r.hex(8), r.hex(4), r.hex(3), r.hex(3), r.hex(12))
}

fn version(r: &mut Random) -> String {
    format!("{}.{}.{}", r.below(20), r.below(40), r.below(100))
}

fn timestamp(r: &mut Random) -> String {
    let (month, day, hour) = (r.between(1, 12), r.between(1, 28), r.below(24));
    format!("2026-{month:02}-{day:02}T{hour:02}:{:02}:{:02}.{}+02:00", r.below(60), r.below(60), r.digits(6))
}

/// The number with another check digit.
fn wrong(number: &str) -> String {
    let (body, check) = number.split_at(number.len() - 1);
    format!("{body}{}", (check.parse::<u32>().unwrap() + 3) % 10)
}
