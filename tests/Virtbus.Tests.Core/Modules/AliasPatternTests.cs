using System.Diagnostics;
using System.Text;
using System.Text.RegularExpressions;
using FsCheck;
using FsCheck.Fluent;
using Virtbus.Core;

namespace Virtbus.Tests.Core.Modules;

/// <summary>Alias patterns as depmod's: DM-22.</summary>
public sealed class AliasPatternTests
{
    [Theory]
    [InlineData("auxiliary:mod.a", "auxiliary:mod.a", true)]
    [InlineData("auxiliary:mod.a", "auxiliary:mod.ab", false)]
    [InlineData("pci:v00001AF4d*sv*sd*bc*sc*i*", "pci:v00001AF4d00001041sv00001AF4sd00000001bc02sc00i00", true)]
    [InlineData("virtio:d0000000[12]v*", "virtio:d00000002v00001AF4", true)]
    [InlineData("a[!0-9]c", "abc", true)]
    [InlineData("a[^0-9]c", "a5c", false)]
    [InlineData("a[", "a[", true)]
    [InlineData("", "", true)]
    [InlineData("*", "", true)]
    [InlineData("?", "", false)]
    [InlineData("**b*", "aab", true)]
    public void Pattern_matches_the_whole_text(string pattern, string text, bool expected) => Assert.Equal(expected, AliasPattern.IsMatch(pattern, text));

    [Fact]
    public void Pattern_agrees_with_a_regular_expression()
    {
        var pattern = Gen.Elements("a", "b", "c", "*", "?", "[ab]", "[!b]", "[a-b]", ".", "+").ListOf().Select(l => string.Concat(l.Take(10)));
        var text = Gen.Elements('a', 'b', 'c', '.', '+').ListOf().Select(l => new string([.. l.Take(14)]));
        Prop.ForAll(pattern.Zip(text).ToArbitrary(), pair => AliasPattern.IsMatch(pair.Item1, pair.Item2) == Regex.IsMatch(pair.Item2, ToRegex(pair.Item1), RegexOptions.Singleline, TimeSpan.FromSeconds(5)))
            .Check(Config.QuickThrowOnFailure.WithMaxTest(5000));
    }

    [Fact]
    public void Pattern_made_to_be_slow_is_not()
    {
        var pattern = string.Concat(Enumerable.Repeat("a*", 500)) + "b";
        var watch = Stopwatch.StartNew();
        Assert.False(AliasPattern.IsMatch(pattern, new string('a', 5000)));
        Assert.True(watch.Elapsed < TimeSpan.FromSeconds(5));
    }

    private static string ToRegex(string pattern)
    {
        var regex = new StringBuilder("^");
        for (var i = 0; i < pattern.Length; i++)
        {
            var close = pattern[i] == '[' ? pattern.IndexOf(']', i) : -1;
            if (close > 0)
            {
                regex.Append(pattern[i..(close + 1)].Replace("[!", "[^", StringComparison.Ordinal));
                i = close;
            }
            else
            {
                regex.Append(pattern[i] switch { '*' => ".*", '?' => ".", var c => Regex.Escape(c.ToString()) });
            }
        }
        return regex.Append("\\z").ToString();
    }
}
