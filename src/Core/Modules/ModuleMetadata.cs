using System.Reflection;
using System.Reflection.Metadata;
using System.Reflection.PortableExecutable;
using System.Runtime.Loader;
using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>Reads what a module file declares, from its metadata alone: none of its code runs.</summary>
internal static class ModuleMetadata
{
    private const long MaxFileBytes = 256L << 20;

    /// <summary>Reads a file.</summary>
    /// <param name="path">The file.</param>
    /// <param name="reason">Why the file is no module.</param>
    public static ModuleInfo? TryRead(string path, out string reason)
    {
        reason = "";
        try
        {
            // A pipe or a device has no length, and opening one may never return.
            if (Resolve(path).Length == 0)
            {
                reason = "it is empty, or no regular file";
                return null;
            }
            using var file = File.OpenRead(path);
            if (file.Length > MaxFileBytes)
            {
                reason = $"it has {file.Length} bytes; a module has at most {MaxFileBytes}";
                return null;
            }
            using var pe = new PEReader(file);
            if (!pe.HasMetadata)
            {
                reason = "it is a native library, not a .NET assembly";
                return null;
            }
            return Read(path, pe.GetMetadataReader(), out reason);
        }
        catch (BadImageFormatException e)
        {
            reason = $"it is not a valid .NET assembly ({e.Message.TrimEnd('.')})";
        }
        catch (VirtbusException e)
        {
            reason = e.Message;
        }
        catch (Exception e)
        {
            // Whatever a file made with intent makes the reader throw: the other modules are read all the same.
            reason = $"it can't be read ({e.Message.TrimEnd('.')})";
        }
        return null;
    }

    /// <summary>The file that a path leads to, also when it is a link.</summary>
    public static FileInfo Resolve(string path)
    {
        var file = new FileInfo(path);
        try
        {
            return file.ResolveLinkTarget(returnFinalTarget: true) as FileInfo ?? file;
        }
        catch (IOException)
        {
            // A circle of links, or gone since it was listed: what reads it says so.
            return file;
        }
    }

    private static ModuleInfo? Read(string path, MetadataReader reader, out string reason)
    {
        string? name = null;
        var entry = "";
        var description = "";
        var aliases = new List<string>();
        foreach (var handle in reader.CustomAttributes)
        {
            var attribute = reader.GetCustomAttribute(handle);
            if (FindHostType(reader, attribute) is not { } type)
                continue;
            if (type == typeof(FabricModuleAttribute) && attribute.Parent.Kind == HandleKind.AssemblyDefinition)
            {
                var value = attribute.DecodeValue(TypeNames.Instance);
                name = value.FixedArguments[0].Value as string;
                entry = value.FixedArguments[1].Value as string ?? "";
                description = value.NamedArguments.FirstOrDefault(a => a.Name == nameof(FabricModuleAttribute.Description)).Value as string ?? "";
            }
            else if (typeof(ModuleAliasAttribute).IsAssignableFrom(type))
            {
                aliases.Add(MakeAlias(type, attribute.DecodeValue(TypeNames.Instance)));
            }
        }
        reason = "";
        if (name is null)
            reason = "it is a .NET assembly but declares no [assembly: FabricModule]";
        else if (name != Path.GetFileNameWithoutExtension(path))
            reason = $"it declares the module name '{name}', which is not its file name";
        else if (entry.Length == 0)
            reason = "its [assembly: FabricModule] names no entry class";
        if (reason.Length > 0)
            return null;
        var references = reader.AssemblyReferences.Select(r => reader.GetString(reader.GetAssemblyReference(r).Name));
        return new ModuleInfo(name!, path, description, aliases, [.. references]) { EntryType = entry };
    }

    // The attribute classes are the program's own; only those are looked at, and only they are made.
    private static Type? FindHostType(MetadataReader reader, CustomAttribute attribute)
    {
        if (attribute.Constructor.Kind != HandleKind.MemberReference)
            return null;
        var constructor = reader.GetMemberReference((MemberReferenceHandle)attribute.Constructor);
        if (constructor.Parent.Kind != HandleKind.TypeReference)
            return null;
        var type = reader.GetTypeReference((TypeReferenceHandle)constructor.Parent);
        if (type.ResolutionScope.Kind != HandleKind.AssemblyReference)
            return null;
        var assembly = reader.GetString(reader.GetAssemblyReference((AssemblyReferenceHandle)type.ResolutionScope).Name);
        if (!assembly.StartsWith("Virtbus.", StringComparison.Ordinal))
            return null;
        try
        {
            return AssemblyLoadContext.Default.LoadFromAssemblyName(new AssemblyName(assembly))
                .GetType($"{reader.GetString(type.Namespace)}.{reader.GetString(type.Name)}");
        }
        catch (IOException)
        {
            return null;
        }
    }

    private static string MakeAlias(Type type, CustomAttributeValue<string> value)
    {
        object?[] arguments = [.. value.FixedArguments.Select(a => a.Value)];
        try
        {
            if (((ModuleAliasAttribute)Activator.CreateInstance(type, arguments)!).Alias is { Length: > 0 } alias)
                return alias;
            throw new VirtbusException(Errno.EINVAL, $"its {type.Name} names no alias");
        }
        catch (Exception e) when (e is MemberAccessException or TargetInvocationException)
        {
            throw new VirtbusException(Errno.EINVAL, $"its {type.Name} can't be made from its arguments", e);
        }
    }

    // Types appear in attribute values by name only.
    private sealed class TypeNames : ICustomAttributeTypeProvider<string>
    {
        public static readonly TypeNames Instance = new();

        public string GetPrimitiveType(PrimitiveTypeCode typeCode) => typeCode.ToString();

        public string GetSystemType() => "System.Type";

        public string GetSZArrayType(string elementType) => elementType + "[]";

        public string GetTypeFromDefinition(MetadataReader reader, TypeDefinitionHandle handle, byte rawTypeKind)
        {
            var type = reader.GetTypeDefinition(handle);
            return $"{reader.GetString(type.Namespace)}.{reader.GetString(type.Name)}";
        }

        public string GetTypeFromReference(MetadataReader reader, TypeReferenceHandle handle, byte rawTypeKind)
        {
            var type = reader.GetTypeReference(handle);
            return $"{reader.GetString(type.Namespace)}.{reader.GetString(type.Name)}";
        }

        public string GetTypeFromSerializedName(string name) => name.Split(',')[0];

        public PrimitiveTypeCode GetUnderlyingEnumType(string type) => PrimitiveTypeCode.Int32;

        public bool IsSystemType(string type) => type == "System.Type";
    }
}
