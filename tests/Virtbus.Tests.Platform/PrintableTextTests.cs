using Virtbus.Platform;

namespace Virtbus.Tests.Platform;

public sealed class PrintableTextTests
{
    [Theory]
    [InlineData("qemu-system-x86", "qemu-system-x86")]
    [InlineData("Gerät 名前 😀", "Gerät 名前 😀")]
    [InlineData("a\nb\r\tc", @"a\nb\r\tc")]
    [InlineData("\u001b[2J\u007f\0", @"\x1b[2J\x7f\x00")]
    [InlineData("\u009b31m", @"\x9b31m")]
    [InlineData("\u202egpj.exe\u2066", @"\u202egpj.exe\u2066")]
    [InlineData("\u2028\u2029\ufeff", @"\u2028\u2029\ufeff")]
    [InlineData("\U000e0041", @"\U000e0041")]
    [InlineData("", "")]
    public void What_does_not_stand_for_itself_on_a_line_is_escaped(string text, string escaped) => Assert.Equal(escaped, PrintableText.Escape(text));

    [Fact]
    public void Half_a_pair_is_escaped() => Assert.Equal(@"a\ud83d", PrintableText.Escape("a" + '\ud83d'));
}
