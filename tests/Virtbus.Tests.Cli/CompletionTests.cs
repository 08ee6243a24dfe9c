using System.Diagnostics;
using System.Text;

namespace Virtbus.Tests.Cli;

/// <summary>Completion in real shells: bash and zsh on a terminal of their own, with keys that are typed; fish by the word that it has for it.</summary>
public sealed class CompletionTests(CompletionTests.RunningFabric running) : IClassFixture<CompletionTests.RunningFabric>
{
    private const string BashCompletion = "/usr/share/bash-completion/bash_completion";

    // What is typed, and what its last word becomes; nothing when it stays as it is.
    private static readonly (string Line, string Word)[] Lines =
    [
        ("virtbus dev", "device"),
        ("virtbus device sh", "show"),
        ("true; virtbus device show demo.b", "demo.bad.0"),
        ("virtbus tree | virtbus bus l", "list"),
        ("sudo virtbus device show 0000:01", "0000:01:00.0"),
        ("X=1 sudo virtbus power sus", "suspend"),
        ("X=1 Y=2 virtbus driver bind demo.part.0 cli_demo.l", "cli_demo.later"),
        ("virtbus driver bind 0000:01:00.0 cli_demo.l", ""),
        ("virtbus driver unbind demo.bad", ""),
        ("virtbus attr get /bus/aux", "/bus/auxiliary/"),
        ("virtbus attr get /bus/auxiliary/drivers_a", "/bus/auxiliary/drivers_autoprobe"),
        ("virtbus module unload cli", "cli_demo"),
        ("virtbus function define x --kind p", "pci"),
        ("virtbus function define x --kind pci sim", "simulated="),
        ("virtbus function plug x --simulated s", "scratch"),
        ("virtbus function plug x --virtio c", "console"),
        ("virtbus function plug x --vfio-user here", "here.yaml"),
        ("virtbus up --deta", "--detach"),
        ("virtbus up her", "here.yaml"),
        ("virtbus -j diff her", "here.yaml"),
        ("virtbus device show her", ""),
        ("virtbus tree her", ""),
        ("virtbus vm disk0 -- her", ""),
        ("PATH/virtbus bu", "bus"),
    ];

    private readonly TestFabric _fabric = running.Fabric;

    public sealed class RunningFabric : IAsyncLifetime
    {
        public TestFabric Fabric { get; } = new();

        public async ValueTask InitializeAsync()
        {
            await Fabric.UpAsync(TestFabric.DemoManifest, "complete");
            Fabric.Write("here.yaml", "{}");
            // The shells complete behind the name of a program that is there.
            var sudo = Fabric.Write("sudo", "#!/bin/sh\nexec \"$@\"\n");
            File.SetUnixFileMode(sudo, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        }

        public ValueTask DisposeAsync() => Fabric.DisposeAsync();
    }

    private static string Programs => Path.GetDirectoryName(TestFabric.Program)!;

    private string Folder => Path.GetDirectoryName(_fabric.Runtime)!;

    [Fact]
    public async Task Bash_is_given_no_name_that_it_would_run()
    {
        SkipWithout("bash", "bash");
        var shim = _fabric.Write("named", "#!/bin/sh\nprintf '%s\\tits name\\n' 'a b$(touch hit)' 'abc=/x'\n");
        File.SetUnixFileMode(shim, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        var script = $$"""
            source <('{{TestFabric.Program}}' completion bash)
            COMP_LINE='{{shim}} device show a' COMP_WORDS=('{{shim}}' device show a) COMP_CWORD=3
            COMP_POINT=${#COMP_LINE}
            compopt() { :; }
            _virtbus
            printf '%s\n' "${COMPREPLY[@]}"
            """;
        using var shell = System.Diagnostics.Process.Start(new System.Diagnostics.ProcessStartInfo("bash", ["-c", script])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            RedirectStandardInput = true,
            UseShellExecute = false,
        })!;
        var run = await TestFabric.EndAsync(shell);
        Assert.Equal(("a\\ b\\$\\(touch\\ hit\\)\nabc=/x\n", ""), (run.Output, run.Errors));
    }

    [Fact]
    public async Task Bash_completes_what_is_typed()
    {
        SkipWithout("bash", "bash");
        Assert.SkipUnless(File.Exists(BashCompletion), "no 'bash-completion' on this host: without it bash looks for nothing behind sudo. Install it with: apt-get install bash-completion");
        // Its own words for keys come after a terminal is there; the buffer goes to a file, the line away.
        _fabric.Write("bashrc", $"""
            PS1='> '
            source {BashCompletion}
            source <(virtbus completion bash)
            bind 'set show-all-if-ambiguous on'
            bind -x '"\C-xp": printf "%s\n" "$READLINE_LINE" >>typed'

            """);
        await TypeAsync("bash --noprofile --rcfile bashrc -i");
    }

    [Fact]
    public async Task Zsh_completes_what_is_typed_and_says_what_it_is()
    {
        SkipWithout("zsh", "zsh");
        _fabric.Write(".zshrc", """
            PS1='> '
            autoload -Uz compinit
            compinit -u -d dump
            source <(virtbus completion zsh)
            show() { print -r -- "$BUFFER" >>typed }
            zle -N show
            bindkey -e
            bindkey '^Xp' show

            """);
        await TypeAsync("zsh -i");
        var terminal = Terminal("zsh -i");
        await terminal.StandardInput.WriteAsync("virtbus device \t");
        await terminal.StandardInput.FlushAsync();
        var seen = await SeeAsync(terminal, "Show all about a device");
        Assert.Matches(@"list +-- List the devices", seen);
        Assert.Matches(@"show +-- Show all about a device", seen);
    }

    [Fact]
    public async Task Fish_completes_what_is_typed_and_says_what_it_is()
    {
        SkipWithout("fish", "fish");
        var script = new StringBuilder("source (virtbus completion fish | psub)\n");
        foreach (var (line, _) in Lines)
            script.Append("complete -C '").Append(Typed(line)).Append("'; echo =\n");
        script.Append("complete -C 'virtbus device '; echo =\ncomplete -C 'virtbus device show demo.part.0'; echo =\n");
        var run = await TestFabric.EndAsync(InFolder("fish", _fabric.Write("complete.fish", script.ToString())));
        Assert.Equal((0, ""), (run.Code, run.Errors));
        string[][] answers = [.. run.Output.Split("=\n").Select(static a => a.Split('\n', StringSplitOptions.RemoveEmptyEntries))];
        foreach (var ((line, word), answer) in Lines.Zip(answers))
            Assert.True(word == string.Join(' ', answer.Select(static a => a.Split('\t')[0])), $"{line}: {string.Join(' ', answer)}");
        Assert.Equal(["list\tList the devices", "show\tShow all about a device"], answers[^3]);
        Assert.Equal(["demo.part.0\tauxiliary bound cli_demo.part"], answers[^2]);
    }

    [Fact]
    public async Task Words_that_lead_nowhere_and_no_fabric_are_silence()
    {
        await using var none = new TestFabric();
        foreach (var words in (string[][])[[], [""], ["nothing", ""], ["device", "show", ""], ["driver", "bind", "x", ""], ["attr", "get", "/"], ["vm", "--", ""], ["up", "x", ""]])
        {
            var run = await none.RunAsync(["[complete]", .. words]);
            Assert.Equal((0, ""), (run.Code, run.Errors));
            Assert.Equal(words.Length <= 1, run.Output.Contains("device\tLook at devices\n", StringComparison.Ordinal));
        }
    }

    // Types each line, a tab, and the key that writes what stands there then.
    private async Task TypeAsync(string shell)
    {
        var typed = Path.Combine(Folder, "typed");
        File.Delete(typed);
        var terminal = Terminal(shell);
        await SeeAsync(terminal, "> ");
        // Ctrl-A and Ctrl-K take the line away. Ctrl-U would too, and means something to a terminal that is not the shell's just now.
        foreach (var (line, _) in Lines)
            await terminal.StandardInput.WriteAsync($"{Typed(line)}\t\u0018p\u0001\u000b");
        await terminal.StandardInput.WriteAsync("exit\n");
        var run = await TestFabric.EndAsync(terminal);
        Assert.True(File.Exists(typed), run.Output);
        string[] lines = await File.ReadAllLinesAsync(typed);
        Assert.Equal(Lines.Select(static l => l.Word.Length == 0 ? Typed(l.Line) : Typed(l.Line)[..(Typed(l.Line).LastIndexOf(' ') + 1)] + l.Word), lines.Select(static l => l.TrimEnd()));
        // A folder and a key are followed by more of the same word.
        Assert.DoesNotContain(lines, static l => l.EndsWith("/ ", StringComparison.Ordinal) || l.EndsWith("= ", StringComparison.Ordinal));
        Assert.Equal("virtbus device ", lines[0]);
    }

    private Process Terminal(string shell) => InFolder("script", "--quiet", "--return", "--command", shell, "/dev/null");

    private Process InFolder(params string[] command) => _fabric.StartProgram(
        "env", ["TERM=dumb", $"HOME={Folder}", $"ZDOTDIR={Folder}", $"PATH={Folder}:{Programs}:{Environment.GetEnvironmentVariable("PATH")}", .. command]);

    private static string Typed(string line) => line.Replace("PATH", Programs, StringComparison.Ordinal);

    private static async Task<string> SeeAsync(Process terminal, string text)
    {
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        var seen = new StringBuilder();
        var character = new char[1];
        while (!seen.ToString().EndsWith(text, StringComparison.Ordinal))
        {
            Assert.True(await terminal.StandardOutput.ReadAsync(character, deadline.Token) == 1, $"'{text}' did not come: {seen}");
            seen.Append(character);
        }
        return seen.ToString();
    }

    private static void SkipWithout(string shell, string package) =>
        Assert.SkipUnless(
            Environment.GetEnvironmentVariable("PATH")!.Split(':').Any(f => File.Exists(Path.Combine(f, shell))),
            $"no '{shell}' on this host: completion is not tried in it. Install it with: apt-get install {package}");
}
