using System.Globalization;
using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>Reads the values that people write into attributes, by the kernel's rules.</summary>
public static class AttributeValue
{
    /// <summary>
    /// What of a write an attribute gets, as a store of sysfs sees it: all up to the first NUL, without the newline at its end. Of a string the
    /// first line counts; elsewhere a second line is refused. Blanks stay: they are part of a name, and no part of a number.
    /// </summary>
    /// <param name="attribute">The attribute's path, for the error.</param>
    /// <param name="written">What was written.</param>
    /// <param name="isString">Whether the value is a string.</param>
    /// <exception cref="VirtbusException">EINVAL: more than one line.</exception>
    internal static string Take(string attribute, string written, bool isString)
    {
        var end = written.IndexOf('\0');
        var value = end < 0 ? written : written[..end];
        end = value.IndexOf('\n');
        if (end < 0)
            return value;
        if (!isString && end != value.Length - 1)
            throw new VirtbusException(Errno.EINVAL, $"{attribute}: what was written has more than one line. Write one value.");
        return value[..end];
    }

    /// <summary>Reads a truth value as kstrtobool does: y, 1, t, on; n, 0, f, off; in either case.</summary>
    /// <param name="attribute">The attribute's path, for the error.</param>
    /// <param name="value">What was written.</param>
    /// <exception cref="VirtbusException">EINVAL.</exception>
    public static bool ParseBoolean(string attribute, string value)
    {
        ArgumentNullException.ThrowIfNull(value);
        return value.ToLowerInvariant() switch
        {
            "1" or "y" or "yes" or "t" or "true" or "on" => true,
            "0" or "n" or "no" or "f" or "false" or "off" => false,
            _ => throw new VirtbusException(Errno.EINVAL, $"{attribute}: '{value}' is not a truth value. Write 0 or 1."),
        };
    }

    /// <summary>Reads an unsigned number as kstrtoull does: decimal, 0x hexadecimal, or 0 octal; a '+' may stand before it, blanks nowhere.</summary>
    /// <param name="attribute">The attribute's path, for the error.</param>
    /// <param name="value">What was written.</param>
    /// <param name="max">The highest value allowed.</param>
    /// <exception cref="VirtbusException">EINVAL: no number; ERANGE: above <paramref name="max"/>.</exception>
    public static ulong ParseUnsigned(string attribute, string value, ulong max = ulong.MaxValue)
    {
        ArgumentNullException.ThrowIfNull(value);
        var text = value.StartsWith('+') ? value.AsSpan(1) : value.AsSpan();
        ulong number;
        bool ok;
        if (text.StartsWith("0x", StringComparison.OrdinalIgnoreCase))
            ok = ulong.TryParse(text[2..], NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out number);
        else if (text.Length > 1 && text[0] == '0')
            ok = TryParseOctal(text[1..], out number);
        else
            ok = ulong.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out number);
        if (!ok)
            throw new VirtbusException(Errno.EINVAL, $"{attribute}: '{value}' is not an unsigned number. Write for example 4 or 0x4.");
        if (number > max)
            throw new VirtbusException(Errno.ERANGE, $"{attribute}: {value} is too large. The highest value is {max}.");
        return number;
    }

    private static bool TryParseOctal(ReadOnlySpan<char> digits, out ulong number)
    {
        number = 0;
        foreach (var c in digits)
        {
            if (c is < '0' or > '7' || number > ulong.MaxValue >> 3)
                return false;
            number = (number << 3) | (uint)(c - '0');
        }
        return true;
    }
}
