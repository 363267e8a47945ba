import Foundation
import Truing

guard CommandLine.arguments.count == 3 else {
    FileHandle.standardError.write(Data("usage: chat MODEL.gguf QUESTION\n".utf8))
    exit(2)
}
let model = try Model(path: CommandLine.arguments[1])
let session = try Session(model: model, profile: "[sampling]\ntemperature = 0\n[limits]\nmax_tokens = 64\n")
try session.answer([Message(role: "user", content: CommandLine.arguments[2])]) { text in
    print(text, terminator: "")
    return true
}
print()
