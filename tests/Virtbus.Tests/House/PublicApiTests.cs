using System.Reflection;
using System.Runtime.CompilerServices;
using System.Text;
using Xunit;

namespace Virtbus.Tests.House;

/// <summary>
/// The public surface of each assembly is a reviewed text in PublicApi/. Set VIRTBUS_UPDATE_API=1 to write it anew, and review the
/// difference. TD-08, VA-12.
/// </summary>
public sealed class PublicApiTests
{
    private const BindingFlags Declared = BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.Instance | BindingFlags.Static | BindingFlags.DeclaredOnly;

    public static TheoryData<string> Assemblies()
    {
        var names = new TheoryData<string>();
        // And the modules that others are written against.
        string[] contracts = ["nic", "nic_rings"];
        var libraries = Directory.EnumerateFiles(AppContext.BaseDirectory, "Virtbus.*.dll").Select(Path.GetFileNameWithoutExtension);
        foreach (var file in libraries.Concat(contracts).Order(StringComparer.Ordinal))
        {
            if (file is not ("Virtbus.Tests" or "Virtbus.Bench"))
                names.Add(file!);
        }
        return names;
    }

    [Theory]
    [MemberData(nameof(Assemblies))]
    public void Public_surface_is_the_reviewed_one(string assembly)
    {
        var path = Path.Combine(LayeringTests.RepositoryRoot(), "tests", "Virtbus.Tests", "PublicApi", assembly + ".txt");
        var now = Describe(Assembly.Load(assembly));
        if (Environment.GetEnvironmentVariable("VIRTBUS_UPDATE_API") == "1")
        {
            Directory.CreateDirectory(Path.GetDirectoryName(path)!);
            File.WriteAllText(path, now);
        }
        Assert.True(File.Exists(path), $"{path} does not exist. Run with VIRTBUS_UPDATE_API=1 and review it.");
        var reviewed = File.ReadAllLines(path);
        var lines = now.TrimEnd('\n').Split('\n');
        Assert.True(
            lines.SequenceEqual(reviewed.Length == 0 ? [""] : reviewed),
            $"The public surface of {assembly} changed:\n{string.Join('\n', reviewed.Except(lines).Select(l => "- " + l.Trim()).Concat(lines.Except(reviewed).Select(l => "+ " + l.Trim())))}\n" +
            "Run with VIRTBUS_UPDATE_API=1 when that is meant, and review the difference.");
    }

    private static string Describe(Assembly assembly)
    {
        var text = new StringBuilder();
        foreach (var type in assembly.GetExportedTypes().OrderBy(t => t.FullName, StringComparer.Ordinal))
        {
            text.Append(Kind(type)).Append(' ').Append(Name(type, withNamespace: true));
            var bases = new[] { type.BaseType }.Where(b => b is not null && b != typeof(object) && b != typeof(ValueType) && b != typeof(Enum) && b != typeof(MulticastDelegate))
                .Concat(type.GetInterfaces().Where(i => i.IsPublic && !type.IsEnum && (type.BaseType is null || !i.IsAssignableFrom(type.BaseType))).OrderBy(i => i.FullName, StringComparer.Ordinal))
                .Select(b => Name(b!)).ToList();
            if (bases.Count > 0)
                text.Append(" : ").AppendJoin(", ", bases);
            text.Append('\n');
            foreach (var member in type.GetMembers(Declared).Select(m => Member(type, m)).Where(m => m is not null).Order(StringComparer.Ordinal))
                text.Append("    ").Append(member).Append('\n');
        }
        return text.ToString();
    }

    private static string? Member(Type type, MemberInfo member)
    {
        if (member.IsDefined(typeof(CompilerGeneratedAttribute)) && member is not MethodInfo { IsSpecialName: false })
            return null;
        switch (member)
        {
            case FieldInfo { IsSpecialName: false } f when f.IsPublic || f.IsFamily || f.IsFamilyOrAssembly:
                var value = f.IsLiteral ? " = " + (type.IsEnum ? Convert.ToInt64(f.GetRawConstantValue()).ToString() : f.GetRawConstantValue() ?? "null") : "";
                return type.IsEnum ? f.Name + value : $"{Access(f.IsPublic)}{(f.IsLiteral ? "const " : f.IsStatic ? "static " : "")}{(f.IsInitOnly ? "readonly " : "")}{Name(f.FieldType)} {f.Name}{value}";
            case PropertyInfo p when Seen(p.GetMethod) || Seen(p.SetMethod):
                var any = (Seen(p.GetMethod) ? p.GetMethod : p.SetMethod)!;
                var set = Seen(p.SetMethod) ? p.SetMethod!.ReturnParameter.GetRequiredCustomModifiers().Contains(typeof(IsExternalInit)) ? " init;" : " set;" : "";
                return $"{Access(any.IsPublic)}{Modifiers(type, any)}{Name(p.PropertyType)} {p.Name}{{{(Seen(p.GetMethod) ? " get;" : "")}{set} }}";
            case ConstructorInfo c when Seen(c):
                return $"{Access(c.IsPublic)}{type.Name.Split('`')[0]}({Parameters(c)})";
            case EventInfo e when Seen(e.AddMethod):
                return $"event {Name(e.EventHandlerType!)} {e.Name}";
            case MethodInfo m when Seen(m) && !m.IsSpecialName || member is MethodInfo { IsPublic: true } o && o.Name.StartsWith("op_", StringComparison.Ordinal):
                var method = (MethodInfo)member;
                if (method.IsDefined(typeof(CompilerGeneratedAttribute)) || type.BaseType == typeof(MulticastDelegate) && method.Name != "Invoke")
                    return null;
                var generic = method.IsGenericMethod ? "<" + string.Join(", ", method.GetGenericArguments().Select(a => a.Name)) + ">" : "";
                return $"{Access(method.IsPublic)}{Modifiers(type, method)}{Name(method.ReturnType)} {method.Name}{generic}({Parameters(method)})";
            default:
                return null;
        }
    }

    private static bool Seen(MethodBase? method) => method is not null && (method.IsPublic || method.IsFamily || method.IsFamilyOrAssembly);

    private static string Access(bool isPublic) => isPublic ? "" : "protected ";

    private static string Modifiers(Type type, MethodInfo method)
    {
        if (method.IsStatic)
            return "static ";
        if (type.IsInterface || !method.IsVirtual)
            return "";
        if (method.GetBaseDefinition() != method)
            return method.IsFinal ? "sealed override " : "override ";
        return method.IsAbstract ? "abstract " : method.IsFinal ? "" : "virtual ";
    }

    private static string Parameters(MethodBase method) => string.Join(", ", method.GetParameters().Select(p =>
        $"{(p.IsOut ? "out " : p.ParameterType.IsByRef ? p.IsIn ? "in " : "ref " : p.IsDefined(typeof(ParamArrayAttribute)) ? "params " : "")}{Name(p.ParameterType)} {p.Name}{(p.HasDefaultValue ? " = " + (p.DefaultValue ?? "default") : "")}"));

    private static string Kind(Type type)
    {
        if (type.IsEnum)
            return "enum";
        if (type.BaseType == typeof(MulticastDelegate))
            return "delegate";
        if (type.IsInterface)
            return "interface";
        if (type.IsValueType)
            return (type.IsDefined(typeof(IsReadOnlyAttribute)) ? "readonly " : "") + (type.IsByRefLike ? "ref " : "") + "struct";
        return (type.IsAbstract && type.IsSealed ? "static " : type.IsAbstract ? "abstract " : type.IsSealed ? "sealed " : "") + "class";
    }

    private static string Name(Type type, bool withNamespace = false)
    {
        if (type.IsByRef || type.IsPointer)
            return Name(type.GetElementType()!) + (type.IsPointer ? "*" : "");
        if (type.IsArray)
            return Name(type.GetElementType()!) + "[]";
        if (Nullable.GetUnderlyingType(type) is { } underlying)
            return Name(underlying) + "?";
        if (Keywords.TryGetValue(type, out var keyword))
            return keyword;
        if (type.IsGenericParameter)
            return type.Name;
        var prefix = type.IsNested ? Name(type.DeclaringType!, withNamespace) + "." : withNamespace ? type.Namespace + "." : "";
        var arguments = type.IsGenericType ? "<" + string.Join(", ", type.GetGenericArguments().Select(a => Name(a))) + ">" : "";
        return prefix + type.Name.Split('`')[0] + arguments;
    }

    private static readonly Dictionary<Type, string> Keywords = new()
    {
        [typeof(void)] = "void", [typeof(bool)] = "bool", [typeof(byte)] = "byte", [typeof(sbyte)] = "sbyte", [typeof(char)] = "char",
        [typeof(short)] = "short", [typeof(ushort)] = "ushort", [typeof(int)] = "int", [typeof(uint)] = "uint", [typeof(long)] = "long",
        [typeof(ulong)] = "ulong", [typeof(nint)] = "nint", [typeof(nuint)] = "nuint", [typeof(string)] = "string", [typeof(object)] = "object",
    };
}
