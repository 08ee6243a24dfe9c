using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using System.Net.NetworkInformation;
using Virtbus.Platform;

namespace Virtbus.Provisioning;

/// <summary>Makes the attributes that a provider declares.</summary>
public static class ProfileFields
{
    private static readonly (string Suffix, int Shift)[] Units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];

    /// <summary>A whole number in decimal.</summary>
    /// <param name="name">The attribute's name.</param>
    /// <param name="what">What is counted, after the range in words: "queue sets".</param>
    /// <param name="least">The lowest value.</param>
    /// <param name="most">The highest value.</param>
    /// <param name="standard">What stands for its absence; null for nothing.</param>
    /// <param name="isRequired">Whether it has to be set.</param>
    /// <param name="change">When it may change.</param>
    public static ProfileField<int> Number(
        string name, string what, int least, int most, int? standard = null, bool isRequired = false, FieldChange change = FieldChange.BeforeActivation) =>
        new(
            name,
            $"a number of {what} from {least} to {most}",
            (string text, out int value) => int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out value) && value >= least && value <= most,
            static value => value.ToString(CultureInfo.InvariantCulture),
            isRequired,
            change)
        {
            HasDefault = standard is not null,
            Default = standard ?? 0,
        };

    /// <summary>A size in bytes: a number, or one with KiB, MiB, GiB or TiB behind it.</summary>
    /// <param name="name">The attribute's name.</param>
    /// <param name="multiple">What it is a multiple of, in bytes.</param>
    /// <param name="isRequired">Whether it has to be set.</param>
    /// <param name="change">When it may change.</param>
    public static ProfileField<long> Size(string name, long multiple, bool isRequired = false, FieldChange change = FieldChange.BeforeActivation) =>
        new(
            name,
            $"a size above 0 that is a multiple of {multiple} bytes, for example 64MiB",
            (string text, out long bytes) => TryParseSize(text, out bytes) && bytes > 0 && bytes % multiple == 0,
            FormatSize,
            isRequired,
            change);

    /// <summary>True or false.</summary>
    /// <param name="name">The attribute's name.</param>
    /// <param name="standard">What stands for its absence.</param>
    /// <param name="change">When it may change.</param>
    public static ProfileField<bool> Flag(string name, bool standard = false, FieldChange change = FieldChange.BeforeActivation) =>
        new(
            name,
            "true or false",
            static (string text, out bool value) => (value = text is "true" or "1") || text is "false" or "0",
            static value => value ? "true" : "false",
            isRequired: false,
            change)
        {
            HasDefault = true,
            Default = standard,
        };

    /// <summary>A text.</summary>
    /// <param name="name">The attribute's name.</param>
    /// <param name="description">What it may be.</param>
    /// <param name="isRight">Whether a text is one; any that is not empty when null.</param>
    /// <param name="isRequired">Whether it has to be set.</param>
    /// <param name="change">When it may change.</param>
    public static ProfileField<string> Text(
        string name, string description, Func<string, bool>? isRight = null, bool isRequired = false, FieldChange change = FieldChange.BeforeActivation) =>
        new(
            name,
            description,
            (string text, [MaybeNullWhen(false)] out string value) =>
            {
                value = text;
                return !text.Any(char.IsControl) && isRight?.Invoke(text) != false;
            },
            static value => value,
            isRequired,
            change);

    /// <summary>One of some words.</summary>
    /// <param name="name">The attribute's name.</param>
    /// <param name="words">The words.</param>
    /// <param name="isRequired">Whether it has to be set.</param>
    /// <param name="change">When it may change.</param>
    public static ProfileField<string> Choice(
        string name, IReadOnlyList<string> words, bool isRequired = false, FieldChange change = FieldChange.BeforeActivation) =>
        Text(name, "one of: " + string.Join(", ", words), words.Contains, isRequired, change);

    /// <summary>The name of the only driver that may take the function's device: letters, digits, '_', '-' and '.'.</summary>
    /// <param name="example">One that may be named.</param>
    /// <param name="standard">What stands for its absence; null for any driver.</param>
    public static ProfileField<string> Driver(string example, string? standard = null) =>
        new(
            "driver",
            $"the name of the only driver that may take it, for example {example}",
            static (string text, [MaybeNullWhen(false)] out string value) => (value = text).All(static c => char.IsAsciiLetterOrDigit(c) || c is '_' or '-' or '.'),
            static value => value,
            isRequired: false,
            FieldChange.BeforeActivation)
        {
            HasDefault = standard is not null,
            Default = standard,
        };

    /// <summary>A unicast Ethernet address, as 48 bits.</summary>
    /// <param name="name">The attribute's name.</param>
    /// <param name="isRequired">Whether it has to be set.</param>
    /// <param name="change">When it may change.</param>
    public static ProfileField<ulong> Mac(string name, bool isRequired = false, FieldChange change = FieldChange.BeforeActivation) =>
        new(name, "a unicast station address, for example 02:00:00:00:00:10", TryParseMac, FormatMac, isRequired, change);

    private static bool TryParseMac(string text, out ulong address)
    {
        address = 0;
        if (text.Length != 17 || !PhysicalAddress.TryParse(text, out var mac))
            return false;
        address = mac.GetAddressBytes().Aggregate(0UL, static (all, b) => (all << 8) | b);
        return address != 0 && (address >> 40 & 1) == 0;
    }

    private static string FormatMac(ulong address) =>
        string.Join(':', Enumerable.Range(0, 6).Select(i => ((address >> (40 - (8 * i))) & 0xFF).ToString("x2", CultureInfo.InvariantCulture)));

    private static bool TryParseSize(string text, out long bytes)
    {
        var shift = 0;
        foreach (var unit in Units)
        {
            if (!text.EndsWith(unit.Suffix, StringComparison.Ordinal))
                continue;
            shift = unit.Shift;
            text = text[..^unit.Suffix.Length];
            break;
        }

        var isRead = long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var number) && number <= long.MaxValue >> shift;
        bytes = isRead ? number << shift : 0;
        return isRead;
    }

    private static string FormatSize(long bytes)
    {
        for (var i = Units.Length - 1; i >= 0; i--)
        {
            if (bytes % (1L << Units[i].Shift) == 0)
                return (bytes >> Units[i].Shift).ToString(CultureInfo.InvariantCulture) + Units[i].Suffix;
        }

        return bytes.ToString(CultureInfo.InvariantCulture);
    }
}
