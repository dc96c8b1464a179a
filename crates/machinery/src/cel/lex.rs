//! From text to tokens.

use super::Flaw;
use super::ast::Literal;

#[derive(Debug)]
pub(super) enum Token {
    Literal(Literal),
    Name(String),
    /// An operator or a bracket.
    Sign(&'static str),
    End,
}

/// Longer signs first.
const SIGNS: &[&str] = &[
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",",
    "(", ")", "[", "]", "{", "}",
];

/// Words that are no names.
const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The tokens of a text, each with where it starts.
///
/// # Errors
/// Where no token is.
pub(super) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, Flaw> {
    let mut lexer = Lexer { text, at: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_space();
        let at = lexer.at;
        let token = lexer.token()?;
        let ended = matches!(token, Token::End);
        // After a dot, any word is a field's name.
        if let Token::Name(name) = &token
            && RESERVED.contains(&name.as_str())
            && !matches!(tokens.last(), Some((_, Token::Sign("." | "?"))))
        {
            return Err(Flaw::new(at, format!("reserved identifier: {name}")));
        }
        tokens.push((at, token));
        if ended {
            return Ok(tokens);
        }
    }
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &str {
        let start = self.at;
        while let Some(c) = self.peek().filter(|c| wanted(*c)) {
            self.at += c.len_utf8();
        }
        &self.text[start..self.at]
    }

    fn flaw<T>(&self, why: impl Into<String>) -> Result<T, Flaw> {
        Err(Flaw::new(self.at, format!("Syntax error: {}", why.into())))
    }

    fn skip_space(&mut self) {
        loop {
            self.take_while(char::is_whitespace);
            if !self.rest().starts_with("//") {
                return;
            }
            self.take_while(|c| c != '\n');
        }
    }

    fn token(&mut self) -> Result<Token, Flaw> {
        let Some(first) = self.peek() else {
            return Ok(Token::End);
        };
        let second = self.rest().chars().nth(1);
        if first.is_ascii_digit() || (first == '.' && second.is_some_and(|c| c.is_ascii_digit())) {
            return self.number();
        }
        if let Some(prefix) = self.string_prefix() {
            return self.string(prefix);
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let word = self
                .take_while(|c| c.is_ascii_alphanumeric() || c == '_')
                .to_owned();
            return Ok(match word.as_str() {
                "true" => Token::Literal(Literal::Bool(true)),
                "false" => Token::Literal(Literal::Bool(false)),
                "null" => Token::Literal(Literal::Null),
                "in" => Token::Sign("in"),
                _ => Token::Name(word),
            });
        }
        if first == '`' {
            self.at += 1;
            let name = self.take_while(|c| c != '`').to_owned();
            if self.peek().is_none() {
                return self.flaw("unterminated escaped identifier");
            }
            self.at += 1;
            return Ok(Token::Name(name));
        }
        match SIGNS.iter().find(|sign| self.rest().starts_with(**sign)) {
            Some(sign) => {
                self.at += sign.len();
                Ok(Token::Sign(sign))
            }
            None => self.flaw(format!("token recognition error at: '{first}'")),
        }
    }

    fn number(&mut self) -> Result<Token, Flaw> {
        let hexadecimal = self.rest().starts_with("0x") || self.rest().starts_with("0X");
        if hexadecimal {
            self.at += 2;
            let digits = self.take_while(|c| c.is_ascii_hexdigit()).to_owned();
            return self.whole(&digits, 16);
        }
        let start = self.at;
        self.take_while(|c| c.is_ascii_digit());
        let mut double = false;
        let after_dot = self.rest().strip_prefix('.');
        if after_dot.is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit())) {
            double = true;
            self.at += 1;
            self.take_while(|c| c.is_ascii_digit());
        }
        if self.rest().starts_with(['e', 'E']) {
            double = true;
            self.at += 1;
            if self.rest().starts_with(['+', '-']) {
                self.at += 1;
            }
            self.take_while(|c| c.is_ascii_digit());
        }
        let digits = self.text[start..self.at].to_owned();
        if !double {
            return self.whole(&digits, 10);
        }
        match digits.parse() {
            Ok(number) => Ok(Token::Literal(Literal::Double(number))),
            Err(_) => self.flaw("invalid double literal"),
        }
    }

    fn whole(&mut self, digits: &str, radix: u32) -> Result<Token, Flaw> {
        if self.rest().starts_with(['u', 'U']) {
            self.at += 1;
            return match u64::from_str_radix(digits, radix) {
                Ok(number) => Ok(Token::Literal(Literal::Uint(number))),
                Err(_) => self.flaw("invalid uint literal"),
            };
        }
        // The least number is one more below zero than above: it is kept as
        // the negative, which only a minus in front turns into a number.
        match i128::from_str_radix(digits, radix).ok().map(i64::try_from) {
            Some(Ok(number)) => Ok(Token::Literal(Literal::Int(number))),
            Some(Err(_)) if digits == "9223372036854775808" => {
                Ok(Token::Literal(Literal::Int(i64::MIN)))
            }
            _ => self.flaw("invalid int literal"),
        }
    }

    /// `r`, `b`, `rb` and a quote, if a string starts here.
    fn string_prefix(&self) -> Option<(bool, bool, usize)> {
        let (mut raw, mut bytes) = (false, false);
        for (index, c) in self.rest().char_indices().take(3) {
            match c {
                '"' | '\'' => return Some((raw, bytes, index)),
                'r' | 'R' if !raw => raw = true,
                'b' | 'B' if !bytes => bytes = true,
                _ => return None,
            }
        }
        None
    }

    fn string(&mut self, (raw, bytes, skip): (bool, bool, usize)) -> Result<Token, Flaw> {
        self.at += skip;
        let quote = self.peek().unwrap_or('"');
        let triple: String = std::iter::repeat_n(quote, 3).collect();
        let end = if self.rest().starts_with(&triple) {
            triple
        } else {
            quote.to_string()
        };
        self.at += end.len();
        let mut content: Vec<u8> = Vec::new();
        loop {
            if self.rest().starts_with(&end) {
                self.at += end.len();
                break;
            }
            let Some(c) = self.peek() else {
                return self.flaw("unterminated string");
            };
            if c == '\n' && end.len() == 1 {
                return self.flaw("unterminated string");
            }
            self.at += c.len_utf8();
            if c == '\\' && !raw {
                self.escape(bytes, &mut content)?;
            } else {
                content.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        if bytes {
            return Ok(Token::Literal(Literal::Bytes(content)));
        }
        match String::from_utf8(content) {
            Ok(text) => Ok(Token::Literal(Literal::Text(text))),
            Err(_) => self.flaw("invalid string"),
        }
    }

    fn escape(&mut self, bytes: bool, content: &mut Vec<u8>) -> Result<(), Flaw> {
        let Some(c) = self.peek() else {
            return self.flaw("unterminated string");
        };
        self.at += c.len_utf8();
        let simple = match c {
            'a' => Some(7),
            'b' => Some(8),
            'f' => Some(12),
            'n' => Some(b'\n'),
            'r' => Some(b'\r'),
            't' => Some(b'\t'),
            'v' => Some(11),
            '\\' | '\'' | '"' | '`' | '?' => u8::try_from(c).ok(),
            _ => None,
        };
        if let Some(byte) = simple {
            content.push(byte);
            return Ok(());
        }
        let (length, radix) = match c {
            'x' | 'X' => (2, 16),
            'u' => (4, 16),
            'U' => (8, 16),
            '0'..='3' => {
                self.at -= 1;
                (3, 8)
            }
            _ => return self.flaw("unknown escape sequence"),
        };
        let digits = self.rest().get(..length).unwrap_or_default().to_owned();
        let code = u32::from_str_radix(&digits, radix);
        let Ok(code) = code else {
            return self.flaw("invalid escape sequence");
        };
        self.at += length;
        if bytes && (length == 2 || length == 3) {
            content.extend(u8::try_from(code));
            return Ok(());
        }
        match char::from_u32(code) {
            Some(c) => content.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
            None => return self.flaw("invalid unicode code point"),
        }
        Ok(())
    }
}
