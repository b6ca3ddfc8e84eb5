import ArgumentParser
import Foundation
import Tessera

/// The command: argument parsing and printing only.
@main
struct TesseraCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "tessera",
        abstract: "Finds, trains, checks and runs efficient vision transformers on a CPU.",
        discussion: """
            A first run:
              tessera train cct_2_3x2_32 --data fashion-mnist --out runs/first --epochs 3
              tessera predict runs/first shirt.png
            """,
        version: "0.1.0",
        subcommands: [
            ModelsCommand.self, TrainCommand.self, EvaluateCommand.self, PredictCommand.self, FeaturesCommand.self,
            ExplainCommand.self, DataCommand.self, MethodsCommand.self, StudyCommand.self, ProbeCommand.self,
            QuantizeCommand.self, InitCommand.self, ImportCommand.self, ExportCommand.self, BenchCommand.self,
            ForwardCommand.self,
        ])

    static func main() {
        // A file beyond the limit of `ulimit -f` is then an error like a full disk, not the end of the process.
        signal(SIGXFSZ, SIG_IGN)
        let arguments = Array(CommandLine.arguments.dropFirst())
        do { try ResumeFlags.check(arguments) } catch { exit(withError: error) }
        do { main(try RecipeFile.expanding(arguments)) } catch {
            reportError(error)
            exit(withError: ExitCode(1))
        }
    }
}

/// A verb of the command. What its work throws becomes one line on standard error and exit status 1.
protocol Verb: ParsableCommand {
    func perform() throws
}

extension Verb {
    func run() throws {
        do { try perform() } catch let status as ExitCode { throw status } catch {
            reportError(error)
            throw ExitCode(1)
        }
    }
}

/// Whatever names from files it quotes, an error is one line.
func reportError(_ error: any Error) { standardError("tessera: \("\(error)".onOneLine(atMost: 4096))") }

/// Prints a line for people: results go to standard output, all else here.
func standardError(_ line: String) { FileHandle.standardError.write(Data((line + "\n").utf8)) }

/// Prints a value as JSON with sorted keys.
func printJSON(_ value: JSON, indented: Bool = false) { print(value.text(indented: indented)) }

extension JSON {
    /// An object from pairs, in their order.
    init(_ members: KeyValuePairs<String, JSON>) { self = .object(members.map { JSON.Member($0.key, $0.value) }) }
}
