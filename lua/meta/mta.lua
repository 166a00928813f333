---@meta mta
-- The words of the rule language, for editors that speak LuaLS. Made by "mta lua stubs"; changes here are lost.

---@class mta.verdict
---@alias mta.text string|number|mta.address text, or what becomes text
---@alias mta.reply string|mta.lines
---@class mta.lines: { [integer]: string } a reply of several lines
---@field close? boolean hang up after it
---@alias mta.parts mta.part[]|(fun(): mta.part?)
---@alias mta.answer table

---@class mta.address
---@operator concat(any): string
---@field local_part string What stands before the @, without quotes. (At mail and later.)
---@field domain string The domain in lower case. (At mail and later.)
local mta_address = {}

---@class mta.part
---@field type string Type and subtype in lower case. (At preq and later.)
---@field filename string? The name it would be saved under, without folders and other tricks; nil if it has none. (At preq and later.)
---@field filenames string[] Every name it may be saved under: mail programs disagree when it gives several. (At preq and later.)
---@field charset string? The charset it declares. (At preq and later.)
---@field disposition string? attachment, inline, or what else it says. (At preq and later.)
---@field encoding string? How it is encoded: base64, quoted-printable ... (At preq and later.)
---@field size integer Bytes of its content, still encoded. (At preq and later.)
---@field id string? Its Content-ID, without the brackets. (At preq and later.)
---@field number string Its place now: "1.2" is the second part of the first; "" the mail itself; "-" once it is taken out. (At preq and later.)
---@field depth integer How many parts it is inside of. (At preq and later.)
---@field multipart boolean Does it hold other parts? (At preq and later.)
---@field attachment boolean Is it a file rather than the text of the mail? (At preq and later.)
---@field flaw string? Why it was not taken apart although it says it holds parts, or what is missing or forbidden in it. (At preq and later.)
---@field parent mta.part? The part it is in; nil for the mail itself. (At preq and later.)
---@field headers mta.headers Its own header fields, with all words of mail.headers. (At preq and later.)
local mta_part = {}

---This part and those below it, as mail:parts. (At preq and later.)
---```lua
---local file = mail:attach("application/x-program", "MZ\0", "tool.exe")
---assert(#mail:part(""):parts() == 3 and #file:parts("text/*") == 0)
---```
---@param what? mta.text
---@return mta.parts
function mta_part:parts(what) end

---What is in it, decoded, as UTF-8, whatever its charset is worth. At most 1,000,000 bytes at once: the second value is where to go on reading, nil at the end; first and last are counted in bytes from 1. They count before the charset is read. (At preq and later.)
---```lua
---assert(mail:part(""):text() == "How are you?\r\n")
---```
---@param first? integer
---@param last? integer
---@return string, integer?
function mta_part:text(first, last) end

---What is in it, decoded, byte for byte. At most 1,000,000 bytes at once: the second value is where to go on reading, nil at the end; first and last are counted in bytes from 1. (At preq and later.)
---```lua
---local file = mail:attach("application/x-program", "MZ\0", "tool.exe")
---assert(file:bytes() == "MZ\0" and file:bytes(1, 2) == "MZ")
---```
---@param first? integer
---@param last? integer
---@return string, integer?
function mta_part:bytes(first, last) end

---What is in it as it stands in the mail, still encoded. At most 1,000,000 bytes at once: the second value is where to go on reading, nil at the end; first and last are counted in bytes from 1. (At preq and later.)
---```lua
---local file = mail:attach("application/x-program", "MZ\0", "tool.exe")
---assert(file:raw():find("TVoA"))
---```
---@param first? integer
---@param last? integer
---@return string, integer?
function mta_part:raw(first, last) end

---Give it another type and content. Text is UTF-8; any other type is kept byte for byte. (At preq and later.)
---```lua
---local file = mail:attach("application/x-program", "MZ\0", "tool.exe")
---file:replace("text/plain", "A program was removed here.")
---assert(file:text():find("removed"))
---```
---@param type mta.text
---@param content mta.text
---@param filename? mta.text
function mta_part:replace(type, content, filename) end

---Give a text another text (UTF-8); its type and name stay. An error if its type is not text. (At preq and later.)
---```lua
---local text = mail:find("text/plain")
---text:set_text("Gr\u{FC}\u{DF}e")
---assert(text.charset == "utf-8")
---```
---@param text mta.text
function mta_part:set_text(text) end

---Give it another content, byte for byte; its type and name stay. An error for what holds other parts. (At preq and later.)
---```lua
---local file = mail:attach("application/x-program", "MZ\0", "tool.exe")
---file:set_bytes("PK")
---assert(file:bytes() == "PK" and file.filename == "tool.exe")
---```
---@param content mta.text
function mta_part:set_bytes(content) end

---Give it another file name. (At preq and later.)
---```lua
---local file = mail:attach("application/x-program", "MZ\0", "tool.exe")
---file:rename("tool.exe.txt")
---assert(file.filename == "tool.exe.txt")
---```
---@param name mta.text
function mta_part:rename(name) end

---Take it out. The last part of a multipart, and the mail itself, becomes an empty text instead. (At preq and later.)
---```lua
---local file = mail:attach("application/x-program", "MZ\0", "tool.exe")
---file:remove()
---assert(not mail:find("tool.exe"))
---```
function mta_part:remove() end

---Put a new part before it. Text is UTF-8; any other type is kept byte for byte. (At preq and later.)
---```lua
---local file = mail:attach("application/x-program", "MZ\0", "tool.exe")
---local note = file:before("text/plain", "Careful:")
---assert(note.number == "2" and file.number == "3")
---```
---@param type mta.text
---@param content mta.text
---@param filename? mta.text
---@return mta.part
function mta_part:before(type, content, filename) end

---Put a new part behind it. Text is UTF-8; any other type is kept byte for byte. (At preq and later.)
---```lua
---local file = mail:attach("application/x-program", "MZ\0", "tool.exe")
---assert(file:after("text/plain", "Did you look?").number == "3")
---```
---@param type mta.text
---@param content mta.text
---@param filename? mta.text
---@return mta.part
function mta_part:after(type, content, filename) end

---Put it into a new multipart (mixed unless given), which takes its place; the multipart. (At preq and later.)
---```lua
---local file = mail:attach("application/x-program", "MZ\0", "tool.exe")
---assert(file:wrap("related").number == "2" and file.number == "2.1")
---```
---@param subtype? mta.text
---@return mta.part
function mta_part:wrap(subtype) end

---Sign it alone, as mail:sign. (At preq and later.)
---```lua
---local file = mail:attach("application/x-program", "MZ\0", "tool.exe")
---file:sign("smime", "you@example.test")
---assert(file.type == "multipart/signed")
---```
---@param kind mta.text
---@param name mta.text
---@return boolean
function mta_part:sign(kind, name) end

---Encrypt it alone, as mail:encrypt. (At preq and later.)
---```lua
---local file = mail:attach("application/x-program", "MZ\0", "tool.exe")
---file:encrypt("smime", mail.recipients)
---assert(file.type == "application/pkcs7-mime")
---```
---@param kind mta.text
---@param names mta.text|mta.text[]
---@return boolean
function mta_part:encrypt(kind, names) end

---Open it, as mail:decrypt. (At preq and later.)
---```lua
---local file = mail:attach("application/x-program", "MZ\0", "tool.exe")
---file:encrypt("smime", "you@example.test")
---assert(file:decrypt("smime", "you@example.test"))
---assert(file:bytes() == "MZ\0")
---```
---@param kind mta.text
---@param name mta.text
---@param ring? mta.text
---@return table?, string?
function mta_part:decrypt(kind, name, ring) end

---Is its signature good? As mail:verify. (At preq and later.)
---```lua
---local file = mail:attach("application/x-program", "MZ\0", "tool.exe")
---file:sign("smime", "you@example.test")
---assert(file:verify("smime", "root").ok)
---```
---@param kind mta.text
---@param name? mta.text
---@return table?, string?
function mta_part:verify(kind, name) end

---@class mta.client
---@field ip string Its address.
---@field port integer Its port.
---@field name string? Its name in the DNS, if that leads back to its address.
---@field trusted boolean Whether it is one of [server] trusted, who may write to anybody without a login.
local mta_client = {}

---@class mta.credentials
---@field mechanism string PLAIN or LOGIN: how the client said it. (At authenticate.)
---@field user string The name, as the client wrote it; after accept() it is mail.user. (At authenticate.)
---@field password string The password. Compare it with digest.equal, or better its digest. (At authenticate.)
---@field identity string? Whom the client says it acts for, if it does: the user itself, for anybody else is refused unasked. (At authenticate.)
local mta_credentials = {}

---@class mta.headers
local mta_headers = {}

---Is there such a field? Names compare without case. (At preq and later.)
---```lua
---assert(mail.headers:has("subject"))
---```
---@param name mta.text
---@return boolean
function mta_headers:has(name) end

---The value of the first such field, unfolded; nil if there is none. (At preq and later.)
---```lua
---assert(mail.headers:get("Subject") == "Hello")
---```
---@param name mta.text
---@return string?
function mta_headers:get(name) end

---The values of all such fields. (At preq and later.)
---```lua
---assert(#mail.headers:all("Received") == 2)
---```
---@param name mta.text
---@return string[]
function mta_headers:all(name) end

---How many such fields there are. (At preq and later.)
---```lua
---assert(mail.headers:count("Received") == 2)
---```
---@param name mta.text
---@return integer
function mta_headers:count(name) end

---Put a field at the bottom of the header. Before preq it is done once the mail is here, whomever it goes to; said before MAIL, to every mail of the connection.
---```lua
---mail.headers:append("X-Checked", "yes")
---assert(mail.headers:get("X-Checked") == "yes")
---```
---@param name mta.text
---@param value mta.text
function mta_headers:append(name, value) end

---Put a field on top of the header. Before preq it is done once the mail is here, whomever it goes to; said before MAIL, to every mail of the connection.
---```lua
---mail.headers:prepend("X-First", "yes")
---assert(mail.headers:has("X-First"))
---```
---@param name mta.text
---@param value mta.text
function mta_headers:prepend(name, value) end

---Replace the first such field where it stands, or append one. Before preq it is done once the mail is here, whomever it goes to; said before MAIL, to every mail of the connection.
---```lua
---mail.headers:set("Subject", "[list] Hello")
---assert(mail.headers:get("Subject") == "[list] Hello")
---```
---@param name mta.text
---@param value mta.text
function mta_headers:set(name, value) end

---Give the first such field another name; false if there is none. (At preq and later.)
---```lua
---assert(mail.headers:rename("Subject", "X-Subject"))
---```
---@param name mta.text
---@param new mta.text
---@return boolean
function mta_headers:rename(name, new) end

---Take all such fields out; how many there were. (At preq and later.)
---```lua
---assert(mail.headers:remove("Received") == 2)
---```
---@param name mta.text
---@return integer
function mta_headers:remove(name) end

---The value of the first such field as the text it means, in UTF-8: encoded words are read (RFC 2047). (At preq and later.)
---```lua
---mail.headers:set("Subject", "=?utf-8?q?Gr=C3=BC=C3=9Fe?=")
---assert(mail.headers:text("Subject") == "Gr\u{FC}\u{DF}e")
---```
---@param name mta.text
---@return string?
function mta_headers:text(name) end

---As set, with any text in UTF-8: what is not ASCII becomes encoded words. (At preq and later.)
---```lua
---mail.headers:set_text("Subject", "Gr\u{FC}\u{DF}e")
---assert(mail.headers:get("Subject"):find("^=%?utf%-8"))
---```
---@param name mta.text
---@param text mta.text
function mta_headers:set_text(name, text) end

---The first such field byte for byte, with its name, its folds and its CRLF; the whole header without a name. (At preq and later.)
---```lua
---assert(mail.headers:raw("subject") == "Subject: Hello\r\n")
---assert(mail.headers:raw():find("^Received: "))
---```
---@param name? mta.text
---@return string?
function mta_headers:raw(name) end

---The names of all fields as they are written, top to bottom. (At preq and later.)
---```lua
---assert(mail.headers:names()[3] == "From")
---```
---@return string[]
function mta_headers:names() end

---The members of all such fields: each has name (UTF-8), address, local_part, domain, and group if it is in one. A member without an address has an empty one. (At preq and later.)
---```lua
---local from = mail.headers:addresses("From")[1]
---assert(from.name == "Ann" and from.address == "ann@example.com" and from.domain == "example.com")
---```
---@param name mta.text
---@return table[]
function mta_headers:addresses(name) end

---Put one field with these members in the place of all such fields; names in UTF-8. Where a name comes from somebody else, mailbox.named quotes it. (At preq and later.)
---```lua
---mail.headers:set_addresses("To", { "J\u{FC}rgen <j@example.test>", "k@example.test" })
---assert(#mail.headers:addresses("To") == 2)
---```
---@param name mta.text
---@param addresses mta.text|mta.text[]
function mta_headers:set_addresses(name, addresses) end

---Add a member. (At preq and later.)
---```lua
---mail.headers:add_address("Cc", "Bob <bob@example.test>")
---assert(mail.headers:get("Cc") == "Bob <bob@example.test>")
---```
---@param name mta.text
---@param address mta.text
function mta_headers:add_address(name, address) end

---Take members with that address out, and the field with the last of them; how many there were. (At preq and later.)
---```lua
---assert(mail.headers:remove_address("To", "YOU@example.test") == 1 and not mail.headers:has("To"))
---```
---@param name mta.text
---@param address mta.text
---@return integer
function mta_headers:remove_address(name, address) end

---Give members another address; their names stay unless the new one has a name. How many there were. (At preq and later.)
---```lua
---assert(mail.headers:replace_address("From", "ann@example.com", "office@example.com") == 1)
---assert(mail.headers:get("From") == "Ann <office@example.com>")
---```
---@param name mta.text
---@param old mta.text
---@param new mta.text
---@return integer
function mta_headers:replace_address(name, old, new) end

---@class mta.known.always
---@field id string The mail's id as in the log; before MAIL the session's.
---@field origin string? The id of the mail this one was made from.
---@field client mta.client The other end of the connection.
---@field server string Our name.
---@field listener string The kind of listener: relay, submission ...
---@field tls string? Protocol and cipher; nil on a connection in clear text.
---@field vars table Whatever rules want to remember with the mail: text, numbers, booleans and tables of them, 64 KB. It stays through the queue: what a rule of postq or delivery sets is there at the next try too.
---@field headers mta.headers The fields of the header, top to bottom. They can be read at preq and later.
local mta_known_always = {}

---@class mta.known.from_helo
---@field helo string What the client calls itself. (At helo and later.)
local mta_known_from_helo = {}

---@class mta.known.from_authenticate
---@field user string? Who has logged in; nil for others. (At authenticate and later.)
local mta_known_from_authenticate = {}

---@class mta.known.authenticate
---@field credentials mta.credentials What a client shows to log in, while that is judged: afterwards nothing can read it. Only accept() logs in. What rules log has *** where the password stood. (At authenticate.)
local mta_known_authenticate = {}

---@class mta.known.from_mail
---@field sender mta.address The sender of the envelope; empty for a bounce. (At mail and later.)
local mta_known_from_mail = {}

---@class mta.known.rcpt
---@field recipient mta.address The recipient in question. Afterwards there are mail.recipients, of whom an attempt may have several. (At rcpt.)
local mta_known_rcpt = {}

---@class mta.known.from_rcpt
---@field recipients mta.address[] All recipients accepted so far; at delivery those of this attempt, who are reached the same way. (At rcpt and later.)
local mta_known_from_rcpt = {}

---Send the mail that way instead of where the settings say: "mx", "host:port", "smtp://user:password@host", "smtps://host", "maildir:PATH", "mbox:PATH", "discard", or "settings" for what they say after all. At rcpt this recipient, later all of them, or those named. At delivery it holds for this attempt only. (At rcpt and later.)
---```lua
---mail:route("smtp://filter.example.test:10025?tls=none")
---mail:route("mbox:archive/{domain}/{local_part}", "you@example.test")
---assert(not pcall(mail.route, mail, "smtp://filter.example.test:smtp"))
---```
---@param way mta.text
---@param recipients? mta.text|mta.text[]
function mta_known_from_rcpt:route(way, recipients) end

---Deliver not before a time (seconds since 1970), or only after a while ("30m"). What is past does nothing. At rcpt this recipient waits, later all of them, or those named. (At rcpt and later.)
---```lua
---if mail.size > 10000000 then mail:hold("2h") end
---mail:hold(time.parse("2024-01-01T06:00:00Z"))
---mail:hold("1h", "you@example.test")
---```
---@param until_ number|string
---@param recipients? mta.text|mta.text[]
function mta_known_from_rcpt:hold(until_, recipients) end

---@class mta.known.from_preq
---@field size integer Bytes the mail has now. (At preq and later.)
local mta_known_from_preq = {}

---The parts of the mail: the mail itself first, a multipart before what is in it; or those of a type ("image/*") or with a file name ("*.exe"). To be walked with `for part in mail:parts() do`, or as a list. (At preq and later.)
---```lua
---local file = mail:attach("application/x-program", "MZ\0", "tool.exe")
---for part in mail:parts("*.EXE") do part:remove() end
---assert(#mail:parts() == 2 and mail:parts()[1].type == "multipart/mixed")
---```
---@param what? mta.text
---@return mta.parts
function mta_known_from_preq:parts(what) end

---The first part of a type or with a file name, as mail:parts has them; nil if there is none. (At preq and later.)
---```lua
---local file = mail:attach("application/x-program", "MZ\0", "tool.exe")
---assert(mail:find("tool.*") == file and not mail:find("image/*"))
---```
---@param what mta.text
---@return mta.part?
function mta_known_from_preq:find(what) end

---A part by its number: "1.2" is the second part of the first, "" the mail itself; nil if there is none. (At preq and later.)
---```lua
---local file = mail:attach("application/x-program", "MZ\0", "tool.exe")
---assert(mail:part("2") == file and mail:part("7") == nil)
---```
---@param number mta.text
---@return mta.part?
function mta_known_from_preq:part(number) end

---The mail as it would be delivered now. At most 1,000,000 bytes at once: the second value is where to go on reading, nil at the end; first and last are counted in bytes from 1. (At preq and later.)
---```lua
---assert(mail:raw():find("Subject: Hello", 1, true) and mail:raw(1, 8) == "Received")
---```
---@param first? integer
---@param last? integer
---@return string, integer?
function mta_known_from_preq:raw(first, last) end

---Put a part at the end of the mail, which becomes a multipart/mixed if it is none. Text is UTF-8; any other type is kept byte for byte. (At preq and later.)
---```lua
---local part = mail:attach("text/csv", "a;b", "table.csv")
---assert(part.filename == "table.csv")
---```
---@param type mta.text
---@param content mta.text
---@param filename? mta.text
---@return mta.part
function mta_known_from_preq:attach(type, content, filename) end

---Put the content of the mail into a new multipart (mixed unless given), which takes its place; the multipart. (At preq and later.)
---```lua
---assert(mail:wrap().type == "multipart/mixed" and mail:part("1").type == "text/plain")
---```
---@param subtype? mta.text
---@return mta.part
function mta_known_from_preq:wrap(subtype) end

---Make the mail a new one with the same header and this text, and the old one, whole, as its attachment. (At preq and later.)
---```lua
---local old = mail:enclose("Look at this with care.")
---assert(old.type == "message/rfc822")
---```
---@param text mta.text
---@return mta.part
function mta_known_from_preq:enclose(text) end

---Put a text under the text of the mail, and html (made from text unless given) into its HTML version; how many texts were changed. 0: it has none that may be changed, or is signed or encrypted. (At preq and later.)
---```lua
---if mail:footer("-- \nSent by us") == 0 then mail:attach("text/plain", "Sent by us") end
---assert(mail:part(""):text():find("Sent by us"))
---```
---@param text mta.text
---@param html? mta.text
---@return integer
function mta_known_from_preq:footer(text, html) end

---Sign the mail with keys/NAME.pem (kind "smime") or keys/NAME.asc ("pgp"). Its Content-* fields and its body are signed; the other header fields stay outside. If it cannot be done the rule fails. (At preq and later.)
---```lua
---mail:sign("smime", "you@example.test")
---assert(mail.headers:get("Content-Type"):find("multipart/signed"))
---```
---@param kind mta.text
---@param name mta.text
---@return boolean
function mta_known_from_preq:sign(kind, name) end

---Encrypt the mail so that the owners of these keys can open it and nobody else. If it cannot be done the rule fails, so that nothing goes out in clear. (At preq and later.)
---```lua
---if mail:can_encrypt("smime", mail.recipients) then mail:encrypt("smime", mail.recipients) end
---assert(mail.headers:get("Content-Type"):find("pkcs7-mime", 1, true))
---```
---@param kind mta.text
---@param names mta.text|mta.text[]
---@return boolean
function mta_known_from_preq:encrypt(kind, names) end

---Is there a key for each of these names? (At preq and later.)
---```lua
---assert(mail:can_encrypt("smime", "you@example.test"))
---assert(not mail:can_encrypt("pgp", { "nobody@example.org" }))
---```
---@param kind mta.text
---@param names mta.text|mta.text[]
---@return boolean
function mta_known_from_preq:can_encrypt(kind, names) end

---Open the mail with the key of that name; {signed, addresses, reason} tell by whom it is signed well inside, as far as the OpenPGP keyring `ring` knows them, or why nobody is said to have signed it. nil and why if it cannot be opened. (At preq and later.)
---```lua
---mail:encrypt("smime", "you@example.test")
---assert(mail:decrypt("smime", "you@example.test"))
---local done, why = mail:decrypt("smime", "you@example.test")
---assert(not done and why)
---```
---@param kind mta.text
---@param name mta.text
---@param ring? mta.text
---@return table?, string?
function mta_known_from_preq:decrypt(kind, name, ring) end

---Is the mail's signature good? {ok, reason, signer, addresses, fingerprint}, addresses separated by blanks. `name`: whose certificates are trusted (S/MIME; without it the system's), or the OpenPGP keyring that is asked. nil and why if the mail is not signed. That addresses holds the From is yours to compare. (At preq and later.)
---```lua
---mail:sign("smime", "you@example.test")
---local seal = mail:verify("smime", "root")
---assert(seal.ok and seal.addresses == "you@example.test")
---```
---@param kind mta.text
---@param name? mta.text
---@return table?, string?
function mta_known_from_preq:verify(kind, name) end

---Keep the mail as it is now in FOLDER/ID.eml, byte for byte; its name. FOLDER lies below rules.export. The file is durable when this returns; if it cannot be kept the rule fails. (At preq and later.)
---```lua
---local file = mail:write("incoming/" .. mail.sender.domain)
---assert(file:find(mail.id .. ".eml", 1, true))
---```
---@param folder? mta.text
---@return string
function mta_known_from_preq:write(folder) end

---Keep what is known of the mail as JSON in FOLDER/ID.json: envelope, header, parts, what rules decided so far, but no content. docs/export.rst tells its shape. Durable as mail:write is. (At preq and later.)
---```lua
---local file = mail:dump("suspicious")
---assert(file:find(mail.id .. ".json", 1, true))
---```
---@param folder? mta.text
---@return string
function mta_known_from_preq:dump(folder) end

---@class mta.known.mail_to_postq
local mta_known_mail_to_postq = {}

---Give the envelope another sender; "" is the null sender of a bounce. The From field stays as it is. (At mail to postq.)
---```lua
---mail:set_sender("bounces+ann@example.test")
---assert(mail.sender.local_part == "bounces+ann")
---```
---@param address mta.text
---@return boolean
function mta_known_mail_to_postq:set_sender(address) end

---Add a recipient, whom the header need not name; false if the mail has that one already. (At mail to postq.)
---```lua
---mail:add_recipient("me@example.test")
---assert(#mail.recipients == 2)
---```
---@param address mta.text
---@return boolean
function mta_known_mail_to_postq:add_recipient(address) end

---The same for a copy of which nobody is to hear: when it cannot be delivered the log tells, but no bounce. (At mail to postq.)
---```lua
---mail:bcc("archive@example.test")
---assert(#mail.recipients == 2)
---```
---@param address mta.text
---@return boolean
function mta_known_mail_to_postq:bcc(address) end

---Take a recipient out; false if there was none. The client is told nothing. A mail that is left without any is thrown away. (At mail to postq.)
---```lua
---assert(mail:remove_recipient(mail.recipients[1]) and #mail.recipients == 0)
---```
---@param address mta.text
---@return boolean
function mta_known_mail_to_postq:remove_recipient(address) end

---Let another address have the mail; false if there is no such recipient. At rcpt also the one in question: its domain must then be ours (or relayed to), and the new address have a mailbox if it is ours. (At mail to postq.)
---```lua
---assert(mail:replace_recipient("you@example.test", "me@example.test"))
---assert(mail.recipients[1].local_part == "me")
---```
---@param old mta.text
---@param new mta.text
---@return boolean
function mta_known_mail_to_postq:replace_recipient(old, new) end

---@class mta.mail.connect: mta.known.always
---@class mta.mail.helo: mta.known.always, mta.known.from_helo
---@class mta.mail.authenticate: mta.known.always, mta.known.from_helo, mta.known.from_authenticate, mta.known.authenticate
---@class mta.mail.mail: mta.known.always, mta.known.from_helo, mta.known.from_authenticate, mta.known.from_mail, mta.known.mail_to_postq
---@class mta.mail.rcpt: mta.known.always, mta.known.from_helo, mta.known.from_authenticate, mta.known.from_mail, mta.known.rcpt, mta.known.from_rcpt, mta.known.mail_to_postq
---@class mta.mail.data: mta.known.always, mta.known.from_helo, mta.known.from_authenticate, mta.known.from_mail, mta.known.from_rcpt, mta.known.mail_to_postq
---@class mta.mail.preq: mta.known.always, mta.known.from_helo, mta.known.from_authenticate, mta.known.from_mail, mta.known.from_rcpt, mta.known.from_preq, mta.known.mail_to_postq
---@class mta.mail.postq: mta.known.always, mta.known.from_helo, mta.known.from_authenticate, mta.known.from_mail, mta.known.from_rcpt, mta.known.from_preq, mta.known.mail_to_postq
---@class mta.mail.delivery: mta.known.always, mta.known.from_helo, mta.known.from_authenticate, mta.known.from_mail, mta.known.from_rcpt, mta.known.from_preq

on = {}

---A client connected; before the greeting.
---```lua
---on.connect("a name for the log", function(mail) end)
---```
---@param name string
---@param rule fun(mail: mta.mail.connect): mta.verdict?
function on.connect(name, rule) end

---HELO or EHLO.
---```lua
---on.helo("a name for the log", function(mail) end)
---```
---@param name string
---@param rule fun(mail: mta.mail.helo): mta.verdict?
function on.helo(name, rule) end

---AUTH: a client wants to log in. The server offers that over TLS if there is such a rule.
---```lua
---on.authenticate("a name for the log", function(mail) end)
---```
---@param name string
---@param rule fun(mail: mta.mail.authenticate): mta.verdict?
function on.authenticate(name, rule) end

---MAIL FROM: the sender is known.
---```lua
---on.mail("a name for the log", function(mail) end)
---```
---@param name string
---@param rule fun(mail: mta.mail.mail): mta.verdict?
function on.mail(name, rule) end

---RCPT TO: once for every recipient.
---```lua
---on.rcpt("a name for the log", function(mail) end)
---```
---@param name string
---@param rule fun(mail: mta.mail.rcpt): mta.verdict?
function on.rcpt(name, rule) end

---DATA, before the content is sent.
---```lua
---on.data("a name for the log", function(mail) end)
---```
---@param name string
---@param rule fun(mail: mta.mail.data): mta.verdict?
function on.data(name, rule) end

---The whole mail is here; nothing is kept yet, so a refusal still goes to the client.
---```lua
---on.preq("a name for the log", function(mail) end)
---```
---@param name string
---@param rule fun(mail: mta.mail.preq): mta.verdict?
function on.preq(name, rule) end

---The mail is kept and the client has gone; once for each mail. What it changes stays, unless it defers: then it is asked again about the mail as it was, and only mail.vars stay.
---```lua
---on.postq("a name for the log", function(mail) end)
---```
---@param name string
---@param rule fun(mail: mta.mail.postq): mta.verdict?
function on.postq(name, rule) end

---Before each attempt to deliver, once for all recipients who are reached the same way. What it changes is for this attempt; only mail.vars stay.
---```lua
---on.delivery("a name for the log", function(mail) end)
---```
---@param name string
---@param rule fun(mail: mta.mail.delivery): mta.verdict?
function on.delivery(name, rule) end

---Go on with the next rule, as a rule without a verdict does.
---```lua
---return next()
---```
---@return mta.verdict
function next() end

---Yes: the other rules of this stage are not asked.
---```lua
---if mail.client.ip == "192.0.2.7" then return accept() end
---```
---@param reply? mta.reply
---@return mta.verdict
function accept(reply) end

---Yes, and no rule of a later stage is asked.
---```lua
---return faccept()
---```
---@param reply? mta.reply
---@return mta.verdict
function faccept(reply) end

---No, for good (5xx). An SMTP reply, "550 5.7.1 text"; several lines in braces, with close = true to hang up.
---```lua
---if mail.helo == "localhost" then
---  return deny{"550 5.7.1 Name yourself", close = true}
---end
---return deny("550 5.7.1 Not from outside")
---```
---@param reply? mta.reply
---@return mta.verdict
function deny(reply) end

---Not now (4xx): the client comes again. An SMTP reply, "550 5.7.1 text"; several lines in braces, with close = true to hang up.
---```lua
---return defer()
---```
---@param reply? mta.reply
---@return mta.verdict
function defer(reply) end

---Answer this command with a 4xx or 5xx, change nothing, ask no other rule of the stage. (At helo to data.)
---```lua
---return reply("450 4.7.1 Say that again")
---```
---@param reply mta.reply
---@return mta.verdict
function reply(reply) end

---Take the mail and hold it for a person, under that name.
---```lua
---return quarantine("suspicious")
---```
---@param name string
---@return mta.verdict
function quarantine(name) end

---Say yes and throw the mail away.
---```lua
---return discard()
---```
---@return mta.verdict
function discard() end

---This recipient may be one of another server, whoever the client is; before rcpt: every recipient. Not a decision: the other rules are asked. (At connect to rcpt.)
---```lua
---if mail.client.ip == "192.0.2.7" then relay() end
---```
---@return mta.verdict
function relay() end

decode = {}

---A header value as the text it means, in UTF-8.
---```lua
---assert(decode.header("=?iso-8859-1?q?=FC?=") == "\u{FC}")
---```
---@param value mta.text
---@return string?, string?
function decode.header(value) end

---From base64, also that of URLs; nil and why if it is none.
---```lua
---assert(decode.base64("aGVsbG8") == "hello")
---```
---@param text mta.text
---@return string?, string?
function decode.base64(text) end

---From hexadecimal.
---```lua
---assert(decode.hex("617a") == "az")
---```
---@param text mta.text
---@return string?, string?
function decode.hex(text) end

---From quoted-printable.
---```lua
---assert(decode.qp("a=3Db") == "a=b")
---```
---@param text mta.text
---@return string?, string?
function decode.qp(text) end

---UTF-8 of a text in another charset.
---```lua
---assert(decode.charset("\xe9", "iso-8859-1") == "é")
---```
---@param text mta.text
---@param charset mta.text
---@return string?, string?
function decode.charset(text, charset) end

digest = {}

---The digest of a text with a key (RFC 2104), in hexadecimal.
---```lua
---assert(digest.hmac("sha256", "key", "text"):sub(1, 8) == "6afa9046")
---```
---@param name mta.text
---@param key mta.text
---@param text mta.text
---@return string?, string?
function digest.hmac(name, key, text) end

---Whether two texts are the same, in a time that does not tell where they differ.
---```lua
---assert(digest.equal("secret", "secret"))
---```
---@param one mta.text
---@param other mta.text
---@return boolean?, string?
function digest.equal(one, other) end

---The MD5 digest, in hexadecimal.
---```lua
---assert(#digest.md5("hello") == 32)
---```
---@param text mta.text
---@return string?, string?
function digest.md5(text) end

---The SHA1 digest, in hexadecimal.
---```lua
---assert(#digest.sha1("hello") == 40)
---```
---@param text mta.text
---@return string?, string?
function digest.sha1(text) end

---The SHA256 digest, in hexadecimal.
---```lua
---assert(#digest.sha256("hello") == 64)
---```
---@param text mta.text
---@return string?, string?
function digest.sha256(text) end

---The SHA512 digest, in hexadecimal.
---```lua
---assert(#digest.sha512("hello") == 128)
---```
---@param text mta.text
---@return string?, string?
function digest.sha512(text) end

dns = {}

---The records of a name (type A unless given); an empty list if there are none; nil and why if nobody can tell now.
---```lua
---local hosts, why = dns.lookup(mail.sender.domain, "MX")
---if not hosts then return defer() end
---assert(hosts[1] == "10 mail.example.com" and why == nil)
---```
---@param name mta.text
---@param type? mta.text
---@return string[]?, string?
function dns.lookup(name, type) end

---The names an address says it has (PTR); whether they lead back to it, dns.lookup tells.
---```lua
---local names = dns.names(mail.client.ip)
---assert(names and names[1] == "mail.example.com")
---```
---@param ip mta.text
---@return string[]?, string?
function dns.names(ip) end

---The codes with which a DNS list (RFC 5782) answers for an address or a domain, or only those that lie in `codes` ("127.0.0.2-127.0.0.11"); nil if it is not listed; nil and why if nobody can tell now.
---```lua
---if dns.listed(mail.client.ip, "zen.example.test") then return defer("450 4.7.1 Try later") end
---local codes = dns.listed("192.0.2.66", "zen.example.test", "127.0.0.2-127.0.0.9")
---assert(#codes == 1 and codes[1] == "127.0.0.2")
---```
---@param thing mta.text
---@param zone mta.text
---@param codes? mta.text
---@return string[]?, string?
function dns.listed(thing, zone, codes) end

domain = {}

---The part of a domain that somebody registered, by the public suffix list.
---```lua
---assert(domain.root("mx.example.co.uk") == "example.co.uk")
---```
---@param name mta.text
---@return string?, string?
function domain.root(name) end

---The part of a domain nobody owns.
---```lua
---assert(domain.suffix("mx.example.co.uk") == "co.uk")
---```
---@param name mta.text
---@return string?, string?
function domain.suffix(name) end

---Whether a domain is one of these, or lies below one.
---```lua
---assert(domain.below("mx.example.com", "example.org example.com"))
---```
---@param name mta.text
---@param parents mta.text
---@return boolean?, string?
function domain.below(name, parents) end

---The domain above.
---```lua
---assert(domain.parent("mx.example.com") == "example.com")
---```
---@param name mta.text
---@return string?, string?
function domain.parent(name) end

---A domain as it stands in the DNS.
---```lua
---assert(domain.to_ascii("bücher.example") == "xn--bcher-kva.example")
---```
---@param name mta.text
---@return string?, string?
function domain.to_ascii(name) end

---A domain as people read it.
---```lua
---assert(domain.to_unicode("xn--bcher-kva.example") == "bücher.example")
---```
---@param name mta.text
---@return string?, string?
function domain.to_unicode(name) end

encode = {}

---Text (UTF-8) as a header value in ASCII, with encoded words where it needs them (RFC 2047).
---```lua
---assert(encode.header("J\u{FC}rgen Schmidt") == "=?utf-8?q?J=C3=BCrgen?= Schmidt")
---```
---@param text mta.text
---@return string?, string?
function encode.header(text) end

---As base64, in one line.
---```lua
---assert(encode.base64("hello") == "aGVsbG8=")
---```
---@param text mta.text
---@return string?, string?
function encode.base64(text) end

---In hexadecimal.
---```lua
---assert(encode.hex("az") == "617a")
---```
---@param text mta.text
---@return string?, string?
function encode.hex(text) end

---As quoted-printable.
---```lua
---assert(encode.qp("a=b") == "a=3Db")
---```
---@param text mta.text
---@return string?, string?
function encode.qp(text) end

json = {}

---The value a JSON text stands for, objects and arrays as tables, null as nil; nil and why if it is no JSON.
---```lua
---local found = json.decode('{"list": [1, "two", true], "none": null}')
---assert(found.list[2] == "two" and found.none == nil)
---```
---@param text mta.text
---@return any, string?
function json.decode(text) end

---A value as JSON: a table is a list without gaps, or has names as keys. An empty one is an object. mail.vars are a table, addresses are text.
---```lua
---assert(json.encode({ 1, "two", { yes = true } }) == '[1,"two",{"yes":true}]')
---```
---@param value any
---@return string
function json.encode(value) end

lists = {}

---Whether an entry of the list `name`, a file in [rules] lists, fits an address, a domain, an IP address or a word, as "Lists" above tells. It is read again when it changes.
---```lua
---if lists.has("blocked.txt", mail.sender) then return deny() end
---assert(lists.has("blocked.txt", "198.51.100.7") and lists.has("blocked.txt", "x@sub.bad.example"))
---```
---@param name mta.text
---@param thing mta.text
---@return boolean
function lists.has(name, thing) end

---What stands in the second column (or another) of the entry that fits, in a map NAME.csv; nil if none does.
---```lua
---assert(lists.get("aliases.csv", "sales@example.test") == "you@example.test")
---```
---@param name mta.text
---@param thing mta.text
---@param column? integer
---@return string?
function lists.get(name, thing, column) end

---Read a list now, and say how many entries it has: at the top of a file of rules, so that a mistake in the list is found before the first mail.
---```lua
---assert(lists.load("blocked.txt") == 3)
---```
---@param name mta.text
---@return integer
function lists.load(name) end

log = {}

---To the log, if it shows such detail: a message, or a topic and a message.
---```lua
---log.debug("looking")
---```
---@param topic mta.text
---@param message? mta.text
function log.debug(topic, message) end

---To the log, with mail, stage and line: a message, or a topic and a message. [log] rules names a file of its own for what rules say.
---```lua
---log.info("sent by " .. mail.sender)
---log.info("newsletter", "from " .. mail.sender)
---```
---@param topic mta.text
---@param message? mta.text
function log.info(topic, message) end

---To the log, as a warning: a message, or a topic and a message.
---```lua
---log.warning("odd")
---```
---@param topic mta.text
---@param message? mta.text
function log.warning(topic, message) end

---To the log, as an error: a message, or a topic and a message.
---```lua
---log.error("lists", "the list is empty")
---```
---@param topic mta.text
---@param message? mta.text
function log.error(topic, message) end

mailbox = {}

---What stands before the @ of an address that is text; nil and why if it is none.
---```lua
---assert(mailbox.local_part("<Ann@example.com>") == "Ann")
---```
---@param address mta.text
---@return string?, string?
function mailbox.local_part(address) end

---The domain of an address that is text, in small letters.
---```lua
---assert(mailbox.domain("ann@Example.COM") == "example.com")
---```
---@param address mta.text
---@return string?, string?
function mailbox.domain(address) end

---An address of these parts, quoted where it must be; nil and why if there is none such.
---```lua
---assert(mailbox.join("ann", "example.com") == "ann@example.com")
---```
---@param local_part mta.text
---@param domain mta.text
---@return string?, string?
function mailbox.join(local_part, domain) end

---An address with a name (UTF-8) as header fields have it, in ASCII, the name quoted or encoded where it must be; nil and why if there is no such address, or the name has more than 1000 bytes.
---```lua
---local from = mail.headers:addresses("From")[1]
---mail.headers:set_addresses("From", mailbox.named(from.name .. ", via list", "list@example.test"))
---assert(mail.headers:get("From") == '"Ann, via list" <list@example.test>')
---```
---@param name mta.text
---@param address mta.text
---@return string?, string?
function mailbox.named(name, address) end

---An address (or local part) without its extension.
---```lua
---assert(mailbox.base("ann+lists@example.com") == "ann@example.com")
---```
---@param address mta.text
---@param separators? mta.text
---@return string
function mailbox.base(address, separators) end

---The extension of an address (or local part), "" without one.
---```lua
---assert(mailbox.extension("ann+lists@example.com") == "lists")
---```
---@param address mta.text
---@param separators? mta.text
---@return string
function mailbox.extension(address, separators) end

---Whether two addresses differ in nothing but capitals.
---```lua
---assert(mailbox.same(mail.sender, "Ann@EXAMPLE.com"))
---```
---@param one mta.text
---@param other mta.text
---@return boolean?, string?
function mailbox.same(one, other) end

net = {}

---Whether this is an IP address.
---```lua
---assert(net.is_ip("2001:db8::1") and not net.is_ip("example.com"))
---```
---@param text mta.text
---@return boolean
function net.is_ip(text) end

---4 or 6.
---```lua
---assert(net.version(mail.client.ip) == 4)
---```
---@param ip mta.text
---@return integer?, string?
function net.version(ip) end

---Whether an address lies in one of these networks, addresses and ranges: "10.0.0.0/8 192.0.2.1-192.0.2.9".
---```lua
---assert(net.inside(mail.client.ip, "10.0.0.0/8 192.0.2.0/24"))
---```
---@param ip mta.text
---@param networks mta.text
---@return boolean?, string?
function net.inside(ip, networks) end

---Whether an address cannot be reached over the Internet: private, loopback, link-local, for documentation.
---```lua
---assert(net.is_private("192.168.1.1") and not net.is_private("8.8.8.8"))
---```
---@param ip mta.text
---@return boolean?, string?
function net.is_private(ip) end

---The network an address lies in: of 24 bits, 64 for IPv6, unless given.
---```lua
---assert(net.network(mail.client.ip) == "192.0.2.0/24")
---```
---@param ip mta.text
---@param bits4? integer
---@param bits6? integer
---@return string?, string?
function net.network(ip, bits4, bits6) end

---The name of an address's PTR record, or that under which a DNS list is asked for it.
---```lua
---assert(net.reverse("192.0.2.7", "zen.example.test") == "7.2.0.192.zen.example.test")
---```
---@param ip mta.text
---@param zone? mta.text
---@return string?, string?
function net.reverse(ip, zone) end

---An address in its one canonical form.
---```lua
---assert(net.plain("2001:DB8:0::1") == "2001:db8::1")
---```
---@param ip mta.text
---@return string?, string?
function net.plain(ip) end

random = {}

---A whole number from first to last.
---```lua
---local n = random.number(1, 6)
---assert(n >= 1 and n <= 6)
---```
---@param first integer
---@param last integer
---@return integer?, string?
function random.number(first, last) end

---Letters and digits. Not for secrets.
---```lua
---assert(#random.text(8) == 8)
---```
---@param length integer
---@return string?, string?
function random.text(length) end

regex = {}

---Whether a regular expression (RE2) occurs in a text. No text can make it slow, and while a long one is looked through the other mails of the server go on.
---```lua
---assert(regex.matches("Cheap PILLS", "(?i)pills?\\b"))
---```
---@param text mta.text
---@param pattern mta.text
---@return boolean?, string?
function regex.matches(text, pattern) end

---First and last byte of the first occurrence; nil if there is none.
---```lua
---local first, last = regex.find("say hello", "l+")
---assert(first == 7 and last == 8)
---```
---@param text mta.text
---@param pattern mta.text
---@param init? integer
---@return integer?, integer?
function regex.find(text, pattern, init) end

---The captures of the first occurrence, or all of it without any; one that took no part is false.
---```lua
---local name, host = regex.match("ann@example.com", "(\\w+)@(\\S+)")
---assert(name == "ann" and host == "example.com")
---```
---@param text mta.text
---@param pattern mta.text
---@param init? integer
---@return string|boolean?, string|boolean?
function regex.match(text, pattern, init) end

---The text with all occurrences replaced, and how many. In `by`: %0 all of it, %1 to %9 captures, %% is %.
---```lua
---assert(regex.replace("a1b22", "[0-9]+", "<%0>") == "a<1>b<22>")
---```
---@param text mta.text
---@param pattern mta.text
---@param by mta.text
---@return string?, integer|string
function regex.replace(text, pattern, by) end

---The pattern that matches exactly this text.
---```lua
---assert(regex.escape("a.b") == "a\\.b")
---```
---@param text mta.text
---@return string?, string?
function regex.escape(text) end

store = {}

---What all workers remember under a key, also after a restart; nil if there is nothing. An error ends the rule as rules.on_error says; with pcall it goes on.
---```lua
---store.set("seen/" .. mail.client.ip, true, "1d")
---assert(store.get("seen/" .. mail.client.ip) == true)
---```
---@param key mta.text
---@return string|number|boolean?
function store.get(key) end

---Remember a value (text up to 64 KB) for ever, or for a time: seconds, or "30s", "5m", "2h", "36d".
---```lua
---store.set("greeted", 1)
---assert(store.get("greeted") == 1)
---```
---@param key mta.text
---@param value string|number|boolean
---@param ttl? string|number
function store.set(key, value, ttl) end

---Remember a value if there is none under that key; whether there was none. Of many who ask at once only one gets true.
---```lua
---assert(store.add("first", mail.client.ip, "1h"))
---assert(not store.add("first", "another"))
---```
---@param key mta.text
---@param value string|number|boolean
---@param ttl? string|number
---@return boolean
function store.add(key, value, ttl) end

---Add to a counter, 1 unless given, and return it. It begins at 0; its time begins when it is made.
---```lua
---assert(store.increment("mails") == 1)
---assert(store.increment("mails", 10, "1d") == 11)
---```
---@param key mta.text
---@param by? integer
---@param ttl? string|number
---@return integer
function store.increment(key, by, ttl) end

---Forget a key; whether it was there.
---```lua
---store.set("brief", 1)
---assert(store.delete("brief") and store.get("brief") == nil)
---```
---@param key mta.text
---@return boolean
function store.delete(key) end

time = {}

---Seconds since 1970.
---```lua
---assert(time.now() > 1e9)
---```
---@return number
function time.now() end

---A duration in seconds: "30s", "5m", "2h", "36d".
---```lua
---assert(time.seconds("5m") == 300)
---```
---@param duration string|number
---@return number
function time.seconds(duration) end

---A time in a form of its own, as strftime does, in UTC unless a zone is given ("Europe/Paris").
---```lua
---assert(time.format(0, "%H:%M") == "00:00")
---```
---@param when number
---@param form mta.text
---@param zone? mta.text
---@return string?, string?
function time.format(when, form, zone) end

---The time a Date field or an RFC 3339 text says.
---```lua
---assert(time.parse("Thu, 01 Jan 1970 00:01:00 +0000") == 60)
---```
---@param text mta.text
---@return number?, string?
function time.parse(text) end

---The date of a time, or of now, in UTC unless a zone is given ("Europe/Paris").
---```lua
---assert(time.date(0) == "1970-01-01")
---```
---@param when? number
---@param zone? mta.text
---@return string?, string?
function time.date(when, zone) end

---The time of day, in UTC unless a zone is given ("Europe/Paris").
---```lua
---assert(time.time(3661) == "01:01:01")
---```
---@param when? number
---@param zone? mta.text
---@return string?, string?
function time.time(when, zone) end

---Date and time as in RFC 3339.
---```lua
---assert(time.iso(0) == "1970-01-01T00:00:00Z")
---```
---@param when? number
---@param zone? mta.text
---@return string?, string?
function time.iso(when, zone) end

---As in a Date field.
---```lua
---assert(time.rfc5322(0) == "Thu, 01 Jan 1970 00:00:00 +0000")
---```
---@param when? number
---@param zone? mta.text
---@return string?, string?
function time.rfc5322(when, zone) end

---1 for Monday to 7 for Sunday.
---```lua
---assert(time.weekday(0) == 4)
---```
---@param when? number
---@param zone? mta.text
---@return integer?, string?
function time.weekday(when, zone) end

---0 to 23.
---```lua
---assert(time.hour(0, "Europe/Paris") == 1)
---```
---@param when? number
---@param zone? mta.text
---@return integer?, string?
function time.hour(when, zone) end

---Whether one more (or `number` more; 0 only looks) is within a rate, "60/1h" being 60 in an hour, all workers together; if not, the seconds after which it would be.
---```lua
---local within, wait = rate("client/" .. mail.client.ip, "100/1m")
---if not within then return defer("450 4.7.1 Too many, wait " .. math.ceil(wait) .. " seconds") end
---assert(rate("x", "1/1h") and not rate("x", "1/1h"))
---```
---@param key mta.text
---@param rate mta.text
---@param number? integer
---@return boolean, number
function rate(key, rate, number) end

---The name of this machine; mail.server is what we call ourselves.
---```lua
---assert(#hostname() > 0)
---```
---@return string
function hostname() end

---A variable of the environment that [rules] env names.
---```lua
---local secret, why = env("NOT_NAMED")
---assert(secret == nil and why:find("rules"))
---```
---@param name mta.text
---@return string?, string?
function env(name) end

---Whether this machine has an account of that name.
---```lua
---assert(user_exists("you") and not user_exists("nobody-of-that-name"))
---```
---@param name mta.text
---@return boolean
function user_exists(name) end

---The settings, read-only: config.SECTION.NAME, your own in config.app. Durations are seconds, sizes bytes. Services, replies and passwords are not in it.
---```lua
---assert(config.smtp.max_size > 0 and config.app.owner == "postmaster@example.test")
---```
---@type table
config = {}

---Replies by name, from the server and from [replies] in the settings: text for deny, defer and their kin.
---```lua
---if not mail.tls then return deny(replies.relay_denied) end
---```
---@type table
replies = {}

---Ask [service.NAME] of the settings. `given`: text or part (a part's number) for its stdin, and values for the {names} in its arguments, beside what is known of the mail: id, session, client, client_name, helo, user, server, listener, sender, sender_domain, recipient, recipient_domain, size. The answer has code or signal, stdout, stderr, cut, timed_out, ms, and failed, which is empty unless its fault is to be ignored: with fault = "defer" or "deny" a fault ends the stage.
---```lua
---local scan = service.clamscan()
---if scan.code == 1 then return quarantine("virus") end
---assert(scan.code == 0)
---```
---@type table<string, fun(given?: table): mta.answer>
service = {}
