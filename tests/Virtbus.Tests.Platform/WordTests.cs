using Virtbus.Platform;

namespace Virtbus.Tests.Platform;

/// <summary>Words for people and for their shells: what was likely meant, how arguments are quoted, how modules are called.</summary>
public sealed class WordTests
{
    private static readonly string[] _verbs = ["attach", "detach", "list", "status", "ls", "Unbind"];

    [Theory]
    [InlineData("attach", "attach")]
    [InlineData("ATTACH", "attach")]
    [InlineData("attahc", "attach")]
    [InlineData("atach", "attach")]
    [InlineData("attacch", "attach")]
    [InlineData("etach", "detach")]
    [InlineData("unbnd", "Unbind")]
    [InlineData("unbnda", "Unbind")]
    [InlineData("unxyza", "")]
    [InlineData("lit", "list")]
    [InlineData("sl", "ls")]
    [InlineData("lx", "ls")]
    [InlineData("xx", "")]
    [InlineData("l", "ls")]
    [InlineData("", "")]
    [InlineData("statu", "status")]
    [InlineData("sattsu", "status")]
    [InlineData("astt", "")]
    [InlineData("everything", "")]
    public void Nearest_word_is_what_was_meant(string word, string meant) => Assert.Equal(meant.Length == 0 ? "" : $" Did you mean '{meant}'?", Suggestion.For(word, _verbs));

    [Fact]
    public void Long_text_is_no_slip()
    {
        foreach (var (length, isTold) in new[] { (64, true), (65, false) })
            Assert.Equal(isTold, Suggestion.For(new string('a', length), [new string('a', length) + "b"]).Length > 0);
    }

    [Fact]
    public void Long_words_may_have_a_slip_in_each_three_letters()
    {
        Assert.Equal(" Did you mean 'abcdefghi'?", Suggestion.For("abcdefxyz", ["abcdefghi"]));
        Assert.Equal("", Suggestion.For("abcdewxyz", ["abcdefghi"]));
        Assert.Equal(" Did you mean 'abcdefghi'?", Suggestion.For("abcdef", ["abcdefghi"]));
        Assert.Equal("", Suggestion.For("abcde", ["abcdefghi"]));
        // The first of those that are equally near.
        Assert.Equal(" Did you mean 'cat'?", Suggestion.For("bat", ["cat", "rat"]));
        Assert.Equal(" Did you mean 'rat'?", Suggestion.For("rats", ["cat", "rat"]));
    }

    [Theory]
    [InlineData("64MB", "64MiB")]
    [InlineData("64m", "64MiB")]
    [InlineData("64 mib", "64MiB")]
    [InlineData("1K", "1KiB")]
    [InlineData("12gi", "12GiB")]
    [InlineData("9TBytes", "9TiB")]
    [InlineData("9tbyte", "9TiB")]
    [InlineData("1", "")]
    [InlineData("1 ", "")]
    [InlineData("", "")]
    [InlineData("m", "")]
    [InlineData("64p", "")]
    [InlineData("64mx", "")]
    [InlineData("64bytes", "")]
    [InlineData("-1m", "")]
    [InlineData("123456789012345678k", "123456789012345678KiB")]
    [InlineData("1234567890123456789k", "")]
    public void Size_in_another_spelling_is_told_in_ours(string size, string meant) => Assert.Equal(meant.Length == 0 ? "" : $" Did you mean '{meant}'?", Suggestion.ForSize(size));

    [Fact]
    public void Shell_sees_the_same_arguments()
    {
        const string Plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789%+,-./:@_";
        Assert.Equal(Plain, ShellQuote.Quote(Plain));
        foreach (var other in Enumerable.Range(32, 95).Select(c => (char)c).Where(c => !Plain.Contains(c, StringComparison.Ordinal) && c != '\''))
            Assert.Equal($"'a{other}'", ShellQuote.Quote($"a{other}"));
        Assert.Equal("'' a 'b c' 'it'\\''s'", ShellQuote.Join(["", "a", "b c", "it's"]));
        var (output, _, _) = Programs.Run("sh", ["-c", "printf '[%s]' " + ShellQuote.Join(["", "$HOME", "it's", "a\nb", "*", "\\"])]);
        Assert.Equal("[][$HOME][it's][a\nb][*][\\]", output);
    }

    [Fact]
    public void Modules_are_found_with_either_line()
    {
        Dictionary<string, string> modules = new() { ["virtio_net"] = "file", ["odd-one"] = "as written" };
        Assert.Equal(("virtio_net", "virtio-net"), (ModuleName.Of("virtio-net"), ModuleName.DriverOf("virtio_net")));
        Assert.Equal("file", ModuleName.Find(modules, "virtio-net"));
        Assert.Equal("file", ModuleName.Find(modules, "virtio_net"));
        Assert.Equal("as written", ModuleName.Find(modules, "odd-one"));
        Assert.Null(ModuleName.Find(modules, "odd_one"));
    }

    [Theory]
    [InlineData("", 0x811c9dc5u)]
    [InlineData("a", 0xe40c292cu)]
    [InlineData("foobar", 0xbf9cf968u)]
    public void Hash_is_FNV_1a(string text, uint hash) => Assert.Equal(hash, StableHash.Of(text));

    [Fact]
    public void Process_is_told_by_number_and_name()
    {
        Assert.Equal("a process of another container", ProcessName.Describe(0, "x"));
        Assert.Equal("process 7", ProcessName.Describe(7, ""));
        Assert.Equal("process 7 (x)", ProcessName.Describe(7, "x"));
        Assert.Equal(File.ReadAllText("/proc/self/comm").TrimEnd('\n'), ProcessName.Of(Environment.ProcessId));
        Assert.Equal(("", ""), (ProcessName.Of(0), ProcessName.Of(int.MaxValue)));
    }
}
